"""A mail server. Prints its port, then each letter that it takes as a line of JSON.

Arguments: starttls, tls or plain; then, but for plain, the files of a certificate and its key. When it
has TLS, it wants the user `ann` with the password `s3cr@t, of ann`. Recipients decide what becomes of
their letters: `gone@...` is refused for good, `later@...` for now, and `slow@...` is never answered.
"""

import asyncio
import email
import email.policy
import json
import logging
import ssl
import sys
import warnings

from aiosmtpd.smtp import AuthResult, SMTP

USER, PASSWORD = b"ann", "s3cr@t, of ann".encode()


def authenticate(server, session, envelope, mechanism, data):
    # Takes PLAIN and LOGIN, which are the same to it.
    right = (data.login, data.password) == (USER, PASSWORD)
    # Not handled: the refusal is the library's to say.
    return AuthResult(success=right, handled=right, auth_data=mechanism if right else None)


class Mailbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        match address.split("@")[0]:
            case "gone":
                return f"550 5.1.1 <{address}>: no such user"
            case "later":
                return "451 4.7.1 greylisted, try again"
            case "slow":
                await asyncio.sleep(3600)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server, session, envelope):
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        told = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "login": session.auth_data,
            "options": envelope.mail_options,
            "header": [[name, str(value)] for name, value in letter.items()],
            "text": letter.get_body(("plain",)).get_content(),
            "html": letter.get_body(("html",)).get_content(),
            "defects": [str(defect) for part in letter.walk() for defect in part.defects],
        }
        print(json.dumps(told), flush=True)
        return "250 2.0.0 queued as 7F00"


def server(security, context):
    if security == "plain":
        return lambda: SMTP(Mailbox(), enable_SMTPUTF8=False)
    return lambda: SMTP(
        Mailbox(),
        authenticator=authenticate,
        auth_required=True,
        auth_require_tls=security == "starttls",
        require_starttls=security == "starttls",
        tls_context=context if security == "starttls" else None,
        enable_SMTPUTF8=True,
    )


async def main():
    security, context = sys.argv[1], None
    if security != "plain":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        server(security, context), "127.0.0.1", 0, ssl=context if security == "tls" else None
    )
    print(listener.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


# Handshakes that clients break off are what the tests are about.
logging.disable()
# It does not see that the connection has TLS from its first byte.
warnings.simplefilter("ignore")
asyncio.run(main())
