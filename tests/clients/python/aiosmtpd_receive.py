"""A receiver on aiosmtpd: aiosmtpd_receive.py ADDRESS PORT FOLDER. Each message becomes two files in FOLDER: N.eml with
the octets as they came, N.json with its envelope (written last, so that it marks N.eml as whole)."""

import asyncio
import json
import os
import sys

from aiosmtpd.smtp import SMTP


class Keep:
    def __init__(self, folder):
        self.folder, self.count = folder, 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        base = os.path.join(self.folder, str(self.count))
        with open(base + ".eml", "wb") as f:
            f.write(envelope.original_content)
        with open(base + ".part", "w") as f:
            json.dump({"reverse_path": envelope.mail_from, "forward_paths": envelope.rcpt_tos}, f)
        os.rename(base + ".part", base + ".json")
        return "250 2.0.0 kept"


async def main():
    address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    keep = Keep(folder)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(keep, hostname="aiosmtpd.test", enable_SMTPUTF8=True), address, port)
    async with server:
        await server.serve_forever()


asyncio.run(main())
