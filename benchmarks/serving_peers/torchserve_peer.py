"""TorchServe with a handler of its own for the model, batching, with as many workers as asked for; needs Java 17."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_LOGGING = """<Configuration><Appenders><Console name="console"/></Appenders>
<Loggers><Root level="error"><AppenderRef ref="console"/></Root></Loggers></Configuration>
"""
"""As shipped it writes several lines for each request."""

_HANDLER = Path(__file__).with_name("torchserve_handler.py")


def main(port: str, file: str, dtype: str, workers: str) -> None:
    """Serve, as TorchServe's own command does."""
    os.environ["MODEL"], os.environ["DTYPE"] = file, dtype
    folder = Path(tempfile.mkdtemp())
    config = folder / "model.yaml"
    config.write_text(f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: 32\nmaxBatchDelay: 1\n")
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", "m", "--version", "1.0"]
    command += ["--handler", str(_HANDLER), "--config-file", str(config), "--export-path", str(folder)]
    subprocess.run(command, check=True)
    addresses = {"inference_address": int(port), "management_address": _free_port(), "metrics_address": _free_port()}
    settings = {name: f"http://127.0.0.1:{number}" for name, number in addresses.items()}
    settings |= {
        "grpc_inference_port": str(_free_port()),
        "grpc_management_port": str(_free_port()),
        "disable_token_authorization": "true",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "number_of_netty_threads": "2",
        "job_queue_size": "1000",
        "model_store": str(folder),
        "load_models": "m=m.mar",
    }
    properties = folder / "config.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    logging = folder / "log4j2.xml"
    logging.write_text(_LOGGING)
    if shutil.which("java") is None:
        raise SystemExit("TorchServe needs Java 17; Debian's package is openjdk-17-jre-headless.")
    os.chdir(folder)  # it writes its logs where it is
    program = str(Path(sys.executable).with_name("torchserve"))
    arguments = ["--start", "--foreground", "--ncs", "--ts-config", str(properties), "--log-config", str(logging)]
    os.execv(program, [program, *arguments])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
