"""Sends one message with Python's smtplib; described by JSON on standard input, see clients/node/send.js."""

import base64
import json
import smtplib
import ssl
import sys
from email.message import EmailMessage


def message(job):
    m = EmailMessage()
    m["From"], m["To"], m["Subject"] = job["from"], ", ".join(job["to"]), job["subject"]
    m.set_content(job["text"])
    if attachment := job.get("attachment"):
        m.add_attachment(base64.b64decode(attachment["base64"]), maintype="application", subtype="octet-stream",
                         filename=attachment["name"])
    return m


def main():
    job = json.load(sys.stdin)
    context = ssl.create_default_context(cafile=job["ca"])
    if job["security"] == "implicit":
        server = smtplib.SMTP_SSL(job["host"], job["port"], context=context)
    else:
        server = smtplib.SMTP(job["host"], job["port"])
        server.starttls(context=context)
    with server:
        server.login(job["user"], job["password"])
        server.send_message(message(job))


try:
    main()
except smtplib.SMTPException as e:
    sys.exit(f"{type(e).__name__}: {e}")
