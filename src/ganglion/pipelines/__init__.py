"""Ready-made steps that join data, training, selection and serving, for use in any pipeline.

```python
data = ingest(fashion_mnist("train"))
models = [train(data, plain, name="plain"), train(data, deep, name="deep")]
best = select(as_completed(models), k=2, metric="accuracy")
service = serve(as_completed(best), name="fashion")
answers = ask(service, fashion_mnist("test"))
```
"""

from ganglion.pipelines.ask import Answer, ask
from ganglion.pipelines.ingest import TrainingData, ingest
from ganglion.pipelines.publish import Published, publish
from ganglion.pipelines.select import select
from ganglion.pipelines.serve import Served, serve
from ganglion.pipelines.train import Candidate, train

__all__ = [
    "Answer",
    "Candidate",
    "Published",
    "Served",
    "TrainingData",
    "ask",
    "ingest",
    "publish",
    "select",
    "serve",
    "train",
]
