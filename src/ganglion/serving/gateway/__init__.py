"""The gateway process: it parses, queues and answers, and it holds a request until its answer is written."""
