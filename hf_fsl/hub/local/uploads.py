"""Large files: the LFS protocol with signed addresses.

Clients send the content itself without their token, as they would to a storage bucket. So the batch answer, which does
need the token, holds an address that is signed for one digest, one size and one day.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

from hf_fsl.hub.local.rules import HubError, whole_number
from hf_fsl.hub.local.storage import Storage

_VALID_SECONDS = 24 * 3600


def lfs_batch(storage: Storage, base: str, body: dict[str, Any]) -> dict[str, Any]:
    """What to upload, and where to. Contents that are here already have no ``actions``.

    Args:
        base: this server's address, with a slash at its end.
    """
    if body.get("operation") != "upload":
        raise HubError(400, f"operation: only 'upload', got {body.get('operation')!r:.100}. Download through resolve.")
    objects = body.get("objects")
    if not isinstance(objects, list):
        raise HubError(400, "objects: a list of {oid, size}.")
    return {"transfer": "basic", "objects": [_object(storage, base, wanted) for wanted in objects]}


def signed_size(storage: Storage, sha256: str, query: Mapping[str, str]) -> int:
    """The size for which an upload address was signed. Raises HubError 401 for any other address."""
    size, expires = query.get("size", ""), query.get("expires", "")
    expected = _signature(storage, sha256, size, expires)
    if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
        raise HubError(401, "This address was not signed by this Hub. Ask for one at info/lfs/objects/batch.")
    if int(expires) < time.time():
        raise HubError(401, "This address has expired. Ask for a new one at info/lfs/objects/batch.")
    return int(size)


def verify(storage: Storage, sha256: str, body: dict[str, Any]) -> None:
    """Raises HubError 422 unless the content is here in the size announced."""
    blob = storage.blob(sha256)
    if not blob.is_file() or blob.stat().st_size != body.get("size"):
        raise HubError(422, f"{sha256} is not here with {body.get('size')} bytes. Upload it again.")


def _object(storage: Storage, base: str, wanted: Any) -> dict[str, Any]:
    if not isinstance(wanted, dict):
        raise HubError(400, "objects: a list of {oid, size}.")
    sha256, size = wanted.get("oid"), whole_number(wanted.get("size"), "size")
    blob = storage.blob(sha256)
    row: dict[str, Any] = {"oid": sha256, "size": size}
    if blob.is_file():
        here = blob.stat().st_size
        return row if here == size else row | {"error": {"code": 422, "message": f"{sha256} has {here} bytes."}}
    expires = str(int(time.time()) + _VALID_SECONDS)
    signature = _signature(storage, str(sha256), str(size), expires)
    address = f"{base}lfs/{sha256}"
    return row | {
        "actions": {
            "upload": {"href": f"{address}?size={size}&expires={expires}&signature={signature}", "header": {}},
            "verify": {"href": f"{address}/verify", "header": {}},
        }
    }


def _signature(storage: Storage, sha256: str, size: str, expires: str) -> str:
    return hmac.new(storage.secret, f"{sha256}/{size}/{expires}".encode(), hashlib.sha256).hexdigest()
