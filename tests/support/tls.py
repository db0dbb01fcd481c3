"""A certificate that nobody has signed, for a server on this machine."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from tests.support.needs import needs_program


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """What a server is made with, and the certificate that a client has to trust."""
    needs_program("openssl", "openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
