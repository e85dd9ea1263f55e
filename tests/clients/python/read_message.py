"""Reads a message on standard input as a mail program would, and answers with JSON: its subject, its text, and its
attachments by name, in base64."""

import base64
import email
import email.policy
import json
import sys

message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
defects = [repr(d) for part in message.walk() for d in part.defects]
if defects:
    sys.exit("; ".join(defects))
json.dump({
    "subject": message["Subject"],
    "text": message.get_body(("plain",)).get_content(),
    "attachments": {a.get_filename(): base64.b64encode(a.get_content()).decode() for a in message.iter_attachments()},
}, sys.stdout)
