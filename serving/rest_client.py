"""Asks a served model through TF Serving's REST API, which needs the standard library and NumPy."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

from answers import SIGNATURE, ServedDetections, read_row
from model_choice import DEFAULT_MODEL, ModelChoice

from refinedet_tf.errors import InputError


class RestClient:
    """Sends image files as base64 in the API's row format, `{"instances": [{"b64": ...}, ...]}`."""

    def __init__(self, url: str = "http://localhost:8501", model_choice: ModelChoice = DEFAULT_MODEL) -> None:
        """Notes the address; nothing is sent yet.

        Args:
            url: the scheme, host and port of the server; a path in front of `/v1` may follow.
            model_choice: the model that is asked, and the seconds that the server may be silent.

        Raises:
            InputError: `url` is no HTTP address.
        """
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
            raise InputError(f"--url must be like http://localhost:8501, got {url}")
        path = f"/v1/models/{urllib.parse.quote(model_choice.name, safe='')}"
        if model_choice.version is not None:
            path += f"/versions/{model_choice.version}"
        elif model_choice.label is not None:
            path += f"/labels/{urllib.parse.quote(model_choice.label, safe='')}"
        self._server, self._timeout = url.rstrip("/"), model_choice.timeout
        self._address = f"{self._server}{path}:predict"

    def detect(self, images: Sequence[bytes]) -> list[ServedDetections]:
        """Asks the server what it detects, in one request.

        Args:
            images: the contents of JPEG, PNG, BMP or GIF files, each of any size, which are sent
                unchanged.

        Returns:
            The detections of each image, in the order of `images`.

        Raises:
            InputError: the server cannot be reached, takes too long, refuses the request, or answers
                with anything but detections. The message quotes the server's explanation if there is one.
        """
        instances = [{"b64": base64.b64encode(image).decode("ascii")} for image in images]
        answer = self._post({"signature_name": SIGNATURE, "instances": instances})
        try:
            rows = json.loads(answer)["predictions"]
        except (ValueError, KeyError, TypeError):
            rows = None
        if not isinstance(rows, list) or len(rows) != len(images):
            raise InputError(
                f"the answer of {self._server} is no JSON with {len(images)} `predictions`: is that the REST "
                "port of TF Serving?"
            )
        return [read_row(row) for row in rows]

    def _post(self, body: dict[str, object]) -> bytes:
        """Sends a request and returns the body of the answer."""
        contents, headers = json.dumps(body).encode("ascii"), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self._address, contents, headers)
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise InputError(f"{self._address} answers {error.code}: {_server_text(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # urllib wraps the errors that it meets before the request is sent, but not the later ones. A
            # ValueError comes from a malformed address.
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                message = f"no answer from {self._server} in {self._timeout:g} s; raise --timeout"
            else:
                message = f"no connection to {self._server}: {reason or type(reason).__name__}"
            raise InputError(message) from None


def _server_text(error: urllib.error.HTTPError) -> str:
    """Returns the field "error" of a refusal's body, or the start of a body that has no such field."""
    try:
        body = error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return "(no explanation)"
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.strip()[:200] or "(no explanation)"
