"""Detection over TF Serving's REST API, with nothing but the standard library and NumPy."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

from answers import SIGNATURE, read_row

from refinedet_tf.errors import InputError


class RestClient:
    """Sends image files as base64 in the API's row format, `{"instances": [{"b64": ...}, ...]}`."""

    def __init__(
        self,
        url: str = "http://localhost:8501",
        model: str = "refinedet",
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
    ):
        """
        Args:
            url: scheme, host and port of the server; a path in front of `/v1` may follow.
            model: its name in models.config.
            version, label: at most one of them; with neither the server takes the latest version.
            timeout: seconds that the server may be silent.

        Raises:
            InputError: `url` is no HTTP address.
        """
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
            raise InputError(f"--url must be like http://localhost:8501, got {url}")
        path = f"/v1/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            path += f"/versions/{version}"
        elif label is not None:
            path += f"/labels/{urllib.parse.quote(label, safe='')}"
        self._server, self._timeout = url.rstrip("/"), timeout
        self._address = f"{self._server}{path}:predict"

    def detect(self, images: Sequence[bytes]) -> list[dict]:
        """What the server detects.

        Args:
            images: whole JPEG, PNG, BMP or GIF files, each of any size; sent unchanged.

        Returns:
            One dict an image, as `read_row` describes it.

        Raises:
            InputError: the server cannot be reached, is silent for too long, refuses the request or
                gives another answer; with the server's own words where it has any.
        """
        instances = [{"b64": base64.b64encode(image).decode("ascii")} for image in images]
        contents = self._post({"signature_name": SIGNATURE, "instances": instances})
        try:
            rows = json.loads(contents)["predictions"]
        except (ValueError, KeyError, TypeError):
            rows = None
        if not isinstance(rows, list) or len(rows) != len(images):
            raise InputError(
                f"the answer of {self._server} is no JSON with {len(images)} `predictions`: is that the REST "
                "port of TF Serving?"
            )
        return [read_row(row) for row in rows]

    def _post(self, body):
        contents, headers = json.dumps(body).encode("ascii"), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self._address, contents, headers)
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise InputError(f"{self._address} answers {error.code}: {_server_text(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # What urllib meets before the request is sent comes wrapped, the rest bare; a ValueError is a
            # malformed address.
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                trouble = f"no answer from {self._server} in {self._timeout:g} s; raise --timeout"
            else:
                trouble = f"no connection to {self._server}: {reason or type(reason).__name__}"
            raise InputError(trouble) from None


def _server_text(error):
    """The field "error" of a refusal's body, or the start of another body."""
    try:
        body = error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return "(no explanation)"
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.strip()[:200] or "(no explanation)"
