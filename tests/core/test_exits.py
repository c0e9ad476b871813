"""Each class of error, thrown at each entry point: one line for what a user can mend, a traceback for our faults."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass

import datasets
import httpx2
import huggingface_hub.errors as hub_errors
import optuna
import PIL
import pyarrow
import pytest
import safetensors
import torch
import yaml

from hf_fsl.cli import demo, hub, launch, launcher, models, publishing, search
from hf_fsl.cli.main import main
from hf_fsl.config import RECIPES, ConfigError, command_line
from hf_fsl.core import exits
from hf_fsl.core.errors import UserError
from hf_fsl.core.exits import HINT, run_plainly
from tests.helpers.launching import ROOT


def raised(work, *arguments):
    try:
        work(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def response(status):
    return httpx2.Response(status, request=httpx2.Request("GET", "http://hub/api"), headers={"x-request-id": "7"})


def generation_error():
    error = datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = pyarrow.ArrowInvalid("CSV parse error: Expected 2 columns, got 3")
    return error


PLAIN = {
    "user": (UserError("the rule, and the way out"), "the rule, and the way out", 1),
    "config": (ConfigError("run.yaml", ["a: b", "c: d"]), "run.yaml: 2 problems", 2),
    "interrupt": (KeyboardInterrupt(), "Interrupted.", 130),
    "no file": (raised(open, "/no/such/file"), "/no/such/file: No such file or directory", 1),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), "/etc/shadow: Permission de", 1),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", 1),
    "folder": (raised(open, "/"), "/: Is a directory", 1),
    "os": (OSError("Can't load\n the model."), "OSError: Can't load the model.", 1),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused", 1),
    "picture": (PIL.UnidentifiedImageError("cannot identify image file 'a.png'"), "cannot identify image file", 1),
    "json": (raised(json.loads, "{"), "not JSON", 1),
    "yaml": (raised(yaml.safe_load, "a: [b"), "while parsing a flow sequence", 1),
    "decode": (raised(b"\xff".decode), "not UTF-8", 1),
    "encode": (raised("…".encode, "ascii"), "The output is in ascii", 1),
    "pickle": (raised(pickle.loads, b"no"), "UnpicklingError", 1),
    "safetensors": (raised(safetensors.deserialize, b"short"), "SafetensorError", 1),
    "arrow": (pyarrow.ArrowInvalid("Parquet magic bytes not found"), "Parquet magic bytes not found", 1),
    "data": (generation_error(), "Expected 2 columns, got 3", 1),
    "connection": (httpx2.ConnectError("All connection attempts failed"), "ConnectError: All connection", 1),
    "url": (httpx2.InvalidURL("Invalid port: '9x'"), "Invalid port", 1),
    "status": (hub_errors.HfHubHTTPError("503 Server Error", response=response(503)), "503 Server Error", 1),
    "no repository": (hub_errors.RepositoryNotFoundError("404: me/x", response=response(404)), "404: me/x", 1),
    "gated": (hub_errors.GatedRepoError("ask for access", response=response(403)), "ask for access", 1),
    "offline": (hub_errors.OfflineModeIsEnabled("offline mode"), "offline mode", 1),
    "not cached": (hub_errors.LocalEntryNotFoundError("not in the cache"), "not in the cache", 1),
    "id": (hub_errors.HFValidationError("Repo id must be"), "Repo id must be", 1),
    "memory": (MemoryError(), "The memory does not suffice", 1),
    "gpu memory": (torch.OutOfMemoryError("CUDA out of memory. Tried"), "The memory does not suffice", 1),
    "cpu memory": (raised(torch.empty, 1 << 60), "The memory does not suffice", 1),
    "study": (optuna.exceptions.StorageInternalError("away"), "StorageInternalError: away", 1),
    "extra": (ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"), "No module named 'psycopg2'", 1),
}  # fmt: skip
FAULTS = [ValueError("x"), TypeError("x"), KeyError("x"), AssertionError(), RuntimeError("x"), RecursionError("deep"),
          ModuleNotFoundError("No module named 'hf_fsl.gone'", name="hf_fsl.gone")]  # fmt: skip

COMMANDS = {
    "demo": (demo, "_demo", ["demo"]),
    "run": (launch, "_run", ["run", "fine_tune"]),
    "validate": (launch, "_validate", ["validate", "file"]),
    "env": (launch, "_env", ["env"]),
    "predict": (models, "_predict", ["predict", "model", "text"]),
    "evaluate": (models, "_evaluate", ["evaluate", "model", "data"]),
    "card": (publishing, "_card", ["card", "record"]),
    "push": (publishing, "_push", ["push", "bundle", "--hub_model_id", "me/x"]),
    "search show": (search, "_show", ["search", "show", "study"]),
    "hub serve": (hub, "_serve", ["hub", "serve", "--root", "folder"]),
    "hub seed": (hub, "_seed", ["hub", "seed"]),
}


class Exits(BaseException):
    pass


@pytest.fixture(params=[*COMMANDS, *RECIPES, "launcher"])
def entry(request, monkeypatch, tmp_path):
    """An error -> what the program of that name exits with when it meets the error."""
    name = request.param

    def exits_with(error):
        def meets(*arguments, **options):
            raise error

        if name in COMMANDS:
            module, function, arguments = COMMANDS[name]
            monkeypatch.setattr(module, function, meets)
            return main(arguments)
        if name == "launcher":
            monkeypatch.setattr(launcher, "_launch", meets)
            monkeypatch.setattr(os, "environ", dict(os.environ))
            monkeypatch.setattr(exits, "is_supervised", lambda: False)  # it always is, and keeps quiet of a Ctrl-C
            return launcher.main([])

        @dataclass
        class Given:
            output_dir: str = str(tmp_path)

        def ends(code):
            raise Exits(code)

        monkeypatch.setattr(command_line, "config_from_command_line", lambda *given: Given())
        monkeypatch.setattr(os, "_exit", ends)
        with pytest.raises(Exits) as ended:
            command_line.run_recipe(meets, RECIPES[name], None)
        return ended.value.args[0]

    return exits_with


def test_what_a_user_can_mend_is_one_line_at_every_entry_point(entry, capsys):
    for name, (error, message, code) in PLAIN.items():
        assert entry(error) == code, name
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said, (name, said)
        assert said.count("\n") == (3 if name == "config" else 1), (name, said)


def test_a_fault_of_ours_keeps_its_traceback_and_says_what_to_do_with_it(entry):
    for error in FAULTS:
        with pytest.raises(type(error)) as raised:
            entry(error)
        assert raised.value is error and error.__notes__[-1] == HINT


def test_every_error_keeps_its_traceback_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv(exits.TRACEBACK, "1")

    def work():
        raise UserError("the rule")

    with pytest.raises(UserError) as raised:
        run_plainly(work, "hf-fsl")
    assert not hasattr(raised.value, "__notes__")


def test_what_others_wrote_does_not_reach_the_terminal_raw(capsys):
    def work():
        raise UserError("a label \x1b[2J\udcff")

    assert run_plainly(work, "hf-fsl") == 1
    assert capsys.readouterr().err == "hf-fsl: a label \\x1b[2J\\udcff\n"


def test_a_reader_that_has_gone_is_no_error():
    code = "import sys; from hf_fsl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "env"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""


def test_without_a_standard_output_nothing_is_flushed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run_plainly(lambda: 3, "hf-fsl") == 3
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_plainly(lambda: 0, "hf-fsl") == 0
