"""Judges DKIM signatures with dkimpy: dkim_judge.py DNS_ADDRESS DNS_PORT, then names of message files on standard input,
one a line. Answers each with `pass`, or `fail: why`. Every signature of a message must hold, and there must be one."""

import sys

import dkim
import dns.resolver

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = [sys.argv[1]]
resolver.port = int(sys.argv[2])
resolver.lifetime = 10


def look_up(name, timeout=5):
    try:
        answer = resolver.resolve(name.decode() if isinstance(name, bytes) else name, "TXT")
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return None
    return b"".join(next(iter(answer)).strings)


for line in sys.stdin:
    with open(line.rstrip("\n"), "rb") as f:
        message = f.read()
    count = sum(1 for name, _ in dkim.rfc822_parse(message)[0] if name.lower() == b"dkim-signature")
    verdict = "pass" if count else "fail: there is no signature"
    for index in range(count):
        try:
            if not dkim.DKIM(message).verify(idx=index, dnsfunc=look_up):
                verdict = f"fail: signature {index} does not hold"
        except Exception as e:
            verdict = f"fail: signature {index}: {type(e).__name__}: {e}"
    print(verdict, flush=True)
