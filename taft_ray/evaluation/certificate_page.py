"""A certificate of forgetting as a page a person can read, whatever fields it has."""

from typing import Any

from taft_ray.evaluation.markup import code, document, esc, nested


def certificate_page(certificate: dict[str, Any]) -> str:
    """One self-contained HTML page with every field of ``certificate``, in its own order.

    The page proves nothing by itself: the JSON it was made of is the certificate, and ``verify`` checks it.
    """
    request = certificate.get("request")
    named = isinstance(request, str | int)
    name = f"Certificate of forgetting {request}" if named else "Certificate of forgetting"
    heading = "<h1>Certificate of forgetting</h1>" + (f"\n<p>Request {code(request)}</p>" if named else "")
    note = esc("A copy for reading. The certificate is the JSON in the run folder, which `taft-ray verify` checks.")
    return document(name, f'<header>{heading}\n<p class="quiet">{note}</p></header>\n{nested(certificate, level=2)}')
