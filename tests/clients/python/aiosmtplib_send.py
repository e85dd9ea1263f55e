"""Sends one message with aiosmtplib; described by JSON on standard input, see clients/node/send.js."""

import asyncio
import base64
import json
import ssl
import sys
from email.message import EmailMessage

import aiosmtplib


async def main():
    job = json.load(sys.stdin)
    m = EmailMessage()
    m["From"], m["To"], m["Subject"] = job["from"], ", ".join(job["to"]), job["subject"]
    m.set_content(job["text"])
    if attachment := job.get("attachment"):
        m.add_attachment(base64.b64decode(attachment["base64"]), maintype="application", subtype="octet-stream",
                         filename=attachment["name"])
    implicit = job["security"] == "implicit"
    _, reply = await aiosmtplib.send(
        m, hostname=job["host"], port=job["port"], username=job["user"], password=job["password"],
        use_tls=implicit, start_tls=not implicit, tls_context=ssl.create_default_context(cafile=job["ca"]))
    print(reply)


try:
    asyncio.run(main())
except aiosmtplib.SMTPException as e:
    sys.exit(f"{type(e).__name__}: {e}")
