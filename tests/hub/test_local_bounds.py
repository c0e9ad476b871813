"""What the local Hub must never do: let anybody in without its token, or out of its root."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
)

from hf_fsl.core.errors import UserError
from hf_fsl.hub.local import running, serve
from hf_fsl.hub.local.rules import HubError, check_path, check_ref_name, check_repo
from hf_fsl.hub.local.store import Store
from tests.helpers.local_hub import CARD, LARGE, add, fetch

pytestmark = pytest.mark.usefixtures("online")


def test_every_route_wants_the_token(tmp_path: Path):
    with running(tmp_path / "hub", token="s3cret") as endpoint:
        api = HfApi(endpoint=endpoint, token="s3cret")
        api.create_repo("u/m")
        api.upload_file(path_or_fileobj=LARGE, path_in_repo="w.bin", repo_id="u/m")
        assert fetch(api, tmp_path, "u/m", "w.bin") == LARGE
        assert api.whoami()["name"] == "local"
        routes = {
            "GET": "/ /u/m /api/whoami-v2 /api/models /api/models/u/m /api/models/u/m/tree/main /api/models/u/none "
            "/api/models/u/m/refs /api/models/u/m/commits/main /u/m/resolve/main/w.bin",
            "POST": "/api/repos/create /api/validate-yaml /api/models/u/m/preupload/main /api/models/u/m/commit/main "
            f"/api/models/u/m/paths-info/main /u/m.git/info/lfs/objects/batch /lfs/{'0' * 64}/verify "
            "/api/models/u/m/branch/b /api/models/u/m/tag/main",
            "PUT": f"/lfs/{'0' * 64} /api/models/u/m/settings",
            "DELETE": "/api/repos/delete /api/models/u/m/branch/b",
        }
        client = httpx2.Client(base_url=endpoint)
        basic = base64.b64encode(b"me:s3cret").decode()
        for method, paths in routes.items():
            for path in paths.split():
                for given in ("", "Bearer wrong", "Bearer", "s3cret", "Token s3cret", "Basic czNjcmV0"):
                    answer = client.request(method, path, headers={"Authorization": given})
                    assert answer.status_code == 401, (method, path, given)
        assert client.get("/u/m", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=endpoint, token="wrong").model_info("u/m")


def test_an_open_address_wants_a_token_and_a_port_is_not_shared(tmp_path: Path):
    with pytest.raises(UserError, match="HF_FSL_HUB_TOKEN"):
        serve(tmp_path, host="0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="Choose another"):
        serve(tmp_path, port=taken.getsockname()[1])


def test_websites_are_kept_out(api: HfApi, endpoint: str):
    def create(**headers: str) -> int:
        return httpx2.post(f"{endpoint}/api/repos/create", json={"name": "u/m"}, headers=headers).status_code

    assert create(Host="evil.example") == 403
    assert create(Origin="https://evil.example") == 403
    assert not list(api.list_models())
    assert create(Origin=endpoint) == 200


HOSTILE = [
    "../outside.txt", "..%2foutside.txt", "%2e%2e/outside.txt", "%2e%2e%2foutside.txt", "..%5coutside.txt",
    "../../../../../../outside.txt", "%252e%252e%252foutside.txt", "/outside.txt", "%2foutside.txt", "a//b", "a/./b",
    "a%00", "%00", "a%0ab", "..", ".", "",
]  # fmt: skip


def test_no_path_leaves_the_root(api: HfApi, endpoint: str, tmp_path: Path):
    (tmp_path / "outside.txt").write_text("OUTSIDE")
    secret = (tmp_path / "hub" / "secret").read_text()
    api.create_repo("u/m")
    host = endpoint.removeprefix("http://")

    def raw(method: str, path: str, body: str | None = None) -> int:
        connection = http.client.HTTPConnection(host)
        connection.putrequest(method, path, skip_accept_encoding=True)  # sends the path as it is
        connection.putheader("Content-Length", str(len(body or "")))
        connection.endheaders((body or "").encode())
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        assert "OUTSIDE" not in text and secret not in text, path
        return answer.status

    for hostile in HOSTILE:
        prefixes = [
            "/u/m/resolve/main/", "/api/models/u/m/tree/main/", "/u/m/resolve/", "/api/models/u/m/revision/",
            "/api/models/u/m/commits/", "/api/models/u/", "/api/models/", "/u/", "/lfs/", "/datasets/",
        ]  # fmt: skip
        paths = [f"/api/models/{hostile}/m", f"/u/{hostile}/resolve/main/x"]
        paths += [prefix + hostile for prefix in prefixes if hostile]
        for path in paths:
            assert raw("GET", path) in (400, 404), path
        name = json.dumps({"name": hostile, "organization": "u"})
        assert raw("DELETE", f"/api/models/u/m/branch/{hostile}") in (400, 404), hostile
        assert raw("POST", "/api/repos/create", name) == 400, name
        assert raw("POST", "/api/repos/create", json.dumps({"name": "m", "organization": hostile or "."})) == 400
        assert raw("DELETE", "/api/repos/delete", name) in (400, 404)
        assert raw("POST", "/api/models/u/m/tag/main", json.dumps({"tag": hostile})) == 400
        assert raw("POST", f"/api/models/u/m/branch/{hostile}") in (400, 404)
    for bad in ("../x", "/x", "a/../b", "a\\b", "a\0b", "", ".", "a//b", "\ud800"):
        line = json.dumps({"key": "file", "value": {"path": bad, "content": ""}})
        assert raw("POST", "/api/models/u/m/commit/main", line) == 400, bad
        assert raw("POST", "/api/models/u/m/preupload/main", json.dumps({"files": [{"path": bad, "size": 1}]})) == 400
    assert api.list_repo_files("u/m") == []
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "outside.txt"}
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"blobs", "incoming", "locks", "models", "secret"}


def test_rules_refuse_and_accept():
    for namespace, name in [("..", "m"), ("u", ".."), ("u", "a..b"), ("api", "m"), ("Datasets", "m"), ("u", "m.git")]:
        with pytest.raises(HubError):
            check_repo(namespace, name)
    for name in ("../x", "a/../b", "a/", "/a", "a//b", ".hidden", "refs/pr/1", "a" * 40, "x.lock", "a b", None):
        with pytest.raises(HubError):
            check_ref_name(name)
    check_repo("sentence-transformers", "all-MiniLM-L6-v2")
    assert check_ref_name("feature/v1.0-x") == "feature/v1.0-x"
    assert check_path("a b/ü..x/.gitattributes") == "a b/ü..x/.gitattributes"


def test_pages_show_and_escape(api: HfApi, endpoint: str):
    api.create_repo("u/m")
    operations = [add("README.md", CARD.encode()), add("<i>&.txt", b"x")]
    commit = api.create_commit("u/m", operations, commit_message="<script>")
    index, page = httpx2.get(f"{endpoint}/"), httpx2.get(commit.commit_url)
    assert 'href="/u/m"' in index.text and "text/html" in page.headers["content-type"]
    assert "# A &lt;b&gt;card&lt;/b&gt;" in page.text and "&lt;script&gt;" in page.text
    assert "<script>" not in page.text and "<i>" not in page.text
    assert httpx2.get(endpoint + f"/u/m/resolve/{commit.oid}/%3Ci%3E%26.txt").text == "x"
    info = api.model_info("u/m")
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    assert info.card_data is not None and info.card_data.license == "apache-2.0"
    assert info.tags == ["hf_fsl", "transformers", "text-classification", "license:apache-2.0"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("api/models/me/things/preupload/main", '{"files": [{"path": "a", "size": Infinity, "sample": ""}]}'),
        ("api/models/me/things/preupload/main", '{"files": [{"path": "a", "size": 1e999, "sample": ""}]}'),
        ("api/models/me/things/preupload/main", '{"files": [{"path": "a", "size": true, "sample": ""}]}'),
        ("api/models/me/things/preupload/main", "[" * 100_000),
        ("api/models/me/things/commit/main", '{"key": "header", "value": ' + "[" * 100_000),
        ("api/models/me/things/commit/main", '{"key": "lfsFile", "value": {"path": "a", "size": NaN}}'),
        ("api/repos/create", '{"name": "me/other", "sdk": Infinity}'),
        ("me/things.git/info/lfs/objects/batch", '{"operation": "upload", "objects": [{"oid": "a", "size": NaN}]}'),
        ("me/things.git/info/lfs/objects/batch", '{"operation": "upload", "objects": [{"size": ' + "9" * 5000 + "}]}"),
    ],
)
def test_bodies_that_no_client_sends_are_refused(path: str, body: str, endpoint: str, api: HfApi) -> None:
    api.create_repo("me/things")
    answer = httpx2.post(f"{endpoint}/{path}", content=body.encode())
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("limit", ["9" * 5000, "-1", "x", "\u0663"])
def test_a_limit_that_is_no_number_is_refused(limit: str, endpoint: str, api: HfApi) -> None:
    assert httpx2.get(f"{endpoint}/api/models", params={"limit": limit}).status_code == 400


def test_refs_of_a_repository_that_is_being_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    repo = store.create("models", "me", "things", {"private": False})
    assert repo.refs("tags") == {}
    store.delete("models", "me", "things")
    with pytest.raises(HubError) as caught:
        repo.refs("heads")
    assert caught.value.status == 404


def test_a_website_cannot_change_a_hub_whose_token_the_browser_knows(tmp_path: Path) -> None:
    with running(tmp_path / "hub", token="secret") as endpoint:
        headers = {"Authorization": "Bearer secret", "Origin": "https://evil.example"}
        body = {"name": "me/things"}
        assert httpx2.post(f"{endpoint}/api/repos/create", json=body, headers=headers).status_code == 403
        headers["Origin"] = endpoint
        assert httpx2.post(f"{endpoint}/api/repos/create", json=body, headers=headers).status_code == 200
