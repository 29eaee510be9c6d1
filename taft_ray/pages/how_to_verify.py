"""VERIFY.md of a dossier: the commands that check exactly its files, with sha256sum, b2sum, openssl and jq alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_INTRODUCTION = """# How to check this dossier

The commands below need `bash`, `openssl` 3, `jq`, and `sha256sum`, `b2sum` and `od` of GNU coreutils.
They need neither taft_ray nor the run. This line runs all of them, in this folder. It ends with an
error at the first thing that is wrong:

    sed -n '/^```bash$/,/^```$/{/^```/!p}' VERIFY.md | bash -euo pipefail

"""
_ALL = """## Every file is the one that was written

```bash
sha256sum --check --strict --quiet SHA256SUMS
test "$(find . -type f ! -path ./SHA256SUMS | wc -l)" -eq "$(wc -l < SHA256SUMS)"
jq --raw-output '.files[] | .sha256 + "  " + .file' dossier.json | sha256sum --check --strict --quiet -
echo "the files are whole"
```

The second line counts the files: none was added. `SHA256SUMS` and `dossier.json` prove nothing about
who wrote them. Compare the digest of `dossier.json` with one that you have from elsewhere. The run's
ledger has it: whoever holds the run can show it by `taft-ray check dossier.json --run RUN`.

"""
_SEALS = """## Each certificate has the digest that is in it, and the one in the run's ledger

A certificate is sealed by `digest`, BLAKE2b with 32 bytes over the file without that field. The ledger
has the same kind of digest over the whole file.

```bash
sealed() {
  local text digest; text=$(cat "$1"); digest=$(jq --raw-output .digest "$1")
  test "$digest" = "$2"
  test "$(printf %s "${text/\\"digest\\":\\"$digest\\",/}" | b2sum --length 256 | cut --characters 1-64)" = "$digest"
  test "$(b2sum --length 256 < "$1" | cut --characters 1-64)" = "$3"
}
"""
_SIGNED = """## Each signature is one over the certificate's bytes

```bash
hex() { od -An -v -tx1 | tr -d ' \\n'; }
signed() {
  openssl pkeyutl -verify -pubin -inkey "$3" -rawin -in "$1" -sigfile "$2.sig" > /dev/null
  test "$(hex < "$2.sig")" = "$(jq --raw-output .signature "$2.signature.json")"
  test "$(openssl pkey -pubin -in "$3" -outform DER | tail --bytes 32 | hex)" = "$(jq --raw-output .public_key "$2.signature.json")"
  test "$(openssl pkey -pubin -in "$3" -outform DER | sha256sum | cut --characters 1-64)" = "$4"
}
"""
_SAID = """echo "the {}"
```

"""
_KEYS = """The signer's key must be known from elsewhere. These are the fingerprints, SHA-256 of the DER form:

"""
_LEFT = """## What these commands do not show

They show that the files are whole, and who signed the certificates. That the samples are gone is shown
by the run itself: `taft-ray verify RUN` checks it from storage. A certificate names the ledger entries
that it rests on, by number and digest.
"""


def how_to_verify(requests: Sequence[Mapping[str, Any]]) -> str:
    """The page for the requests of a dossier's facts. Their names are fit for file names and commands."""
    certified = [one["certificate"] for one in requests if one["certificate"] is not None]
    signed = [one for one in certified if one["signature"] is not None]
    text = _INTRODUCTION + _ALL
    if certified:
        calls = "".join(f"sealed {one['file']} {one['digest']} {one['bytes_digest']}\n" for one in certified)
        text += f"{_SEALS}{calls}{_SAID.format('certificates have their digests')}"
    else:
        text += "There is no certificate in this dossier.\n\n"
    if signed:
        calls = "".join(_signed(one) for one in signed)
        keys = "".join(f"    {key}  {print_}\n" for key, print_ in sorted({_key(one) for one in signed}))
        text += f"{_SIGNED}{calls}{_SAID.format('signatures are good')}{_KEYS}{keys}\n"
    elif certified:
        text += "No certificate in this dossier is signed.\n\n"
    return text + _LEFT


def _signed(certificate: Mapping[str, Any]) -> str:
    key, fingerprint = _key(certificate)
    stem = certificate["file"].removesuffix(".json")
    return f"signed {certificate['file']} {stem} {key} {fingerprint}\n"


def _key(certificate: Mapping[str, Any]) -> tuple[str, str]:
    signature = certificate["signature"]
    return signature["key"], signature["fingerprint"].removeprefix("sha256:")
