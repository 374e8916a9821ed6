"""The proof of a delivery: which certificate may have signed it, and whether it has. Pure."""

import base64
import re
import zlib
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from portal.gateways.base import BadSignature
from portal.gateways.capabilities import facts
from portal.gateways.wire import moment, one_header

SIGNED_OVER = ("transmission-id", "transmission-time", "transmission-sig", "cert-url", "auth-algo")
SIGNERS = {"messageverificationcerts.paypal.com", "messageverificationcerts.sandbox.paypal.com"}
SIMULATED = "WEBHOOK_ID"  # what PayPal's own webhook simulator signs with, for everybody
_NOT_PROVED: tuple[type[Exception], ...] = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)
_NOT_PROVED += (x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion)


def prove(headers: Sequence[tuple[str, str]], body: bytes, webhook: str, certificate: bytes) -> None:
    """Raises BadSignature unless PayPal signed this body for our webhook.

    RSA over transmission id, time, webhook id and the raw body's CRC-32. PayPal names no tolerance for the time, since
    it sends again for days; but the certificate must have been valid then.
    """
    name, sent, signature, url, algorithm = (one_header(headers, f"paypal-{one}") for one in SIGNED_OVER)
    certificate_address(url)
    at = moment(sent)
    if algorithm != "SHA256withRSA" or at is None or webhook == SIMULATED:
        raise BadSignature("The algorithm, the time or the webhook ID cannot be right.")
    try:
        signed = base64.b64decode(signature, validate=True)
        if base64.b64encode(signed).decode() != signature:
            raise ValueError("The signature is written in another way than it is made.")
        message = f"{name}|{sent}|{webhook}|{zlib.crc32(body)}"
        _key(certificate, at).verify(signed, message.encode(), padding.PKCS1v15(), SHA256())
    except _NOT_PROVED as error:
        raise BadSignature(
            "The signature is not PayPal's for this webhook: see that the webhook ID is the one whose address this "
            "is. Events of PayPal's webhook simulator are signed for none."
        ) from error


def certificate_address(url: str) -> tuple[str, str]:
    """Host and path of a certificate; BadSignature for any address but PayPal's own for certificates."""
    host, slash, name = url.removeprefix("https://").partition("/")
    path = re.fullmatch(r"v1/notifications/certs/[A-Za-z0-9_-]{1,100}", name)
    if not url.startswith("https://") or host not in facts("paypal").hosts.certificates or not path:
        raise BadSignature("The certificate's address is none of PayPal's.")
    return host, slash + name


def _key(pem: bytes, at: datetime) -> rsa.RSAPublicKey:
    """The key of a signing certificate: PayPal's by name, valid at that moment, each certificate signed by the next.

    The authority at the top is not pinned: what vouches for the file is the host that it comes from. ValueError.
    """
    chain = x509.load_pem_x509_certificates(pem)
    for one, issuer in pairwise(chain):
        one.verify_directly_issued_by(issuer)
        if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError("An issuer is no authority.")
    names = {one.value for one in chain[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)}
    valid = all(one.not_valid_before_utc <= at <= one.not_valid_after_utc for one in chain)
    key = chain[0].public_key()
    if not names & SIGNERS or not valid or not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise ValueError("The certificate is not PayPal's for webhooks, or was not valid then.")
    return key
