"""Reads a delivery status notification (RFC 3464) on standard input as a program of a mailing list would, and answers with
JSON: its header fields, its text, the fields of its machine-readable part, and what it gives back. Anything that Python's
parser finds wrong ends it with an error."""

import email
import email.errors
import email.policy
import json
import sys

# Python knows header fields in UTF-8 (RFC 6532) only as defects.
UTF8_DEFECTS = email.errors.NonASCIILocalPartDefect, email.errors.UndecodableBytesDefect
octets = sys.stdin.buffer.read()
octets.decode("utf-8")
message = email.message_from_bytes(octets, policy=email.policy.default)
defects = [repr(d) for part in message.walk() for d in part.defects]
defects += [f"{name}: {d!r}" for part in message.walk() for name, v in part.items() for d in getattr(v, "defects", ())
            if octets.isascii() or not isinstance(d, UTF8_DEFECTS)]
if defects:
    sys.exit("; ".join(defects))
if message.get_content_type() != "multipart/report" or message.get_param("report-type") != "delivery-status":
    sys.exit(f"not a report: {message['Content-Type']}")


def fields(part):
    names = [name.lower() for name in part.keys()]
    if len(set(names)) != len(names):
        sys.exit(f"a field stands more than once: {names}")
    return {name.lower(): str(value) for name, value in part.items()}


parts = list(message.iter_parts())
notice, status = parts[0], parts[1]
if notice.get_content_type() != "text/plain" or status.get_content_type() != "message/delivery-status":
    sys.exit(f"not the parts of a report: {[part.get_content_type() for part in parts]}")
groups = [fields(group) for group in status.get_payload()]
json.dump({
    "header": {name.lower(): str(value) for name, value in message.items()},
    "text": notice.get_content(),
    "message": groups[0],
    "recipients": groups[1:],
    "returned_type": parts[2].get_content_type() if len(parts) > 2 else None,
    "returned": parts[2].get_payload(0).as_string() if len(parts) > 2 and parts[2].is_multipart() else
                parts[2].get_content() if len(parts) > 2 else None,
}, sys.stdout)
