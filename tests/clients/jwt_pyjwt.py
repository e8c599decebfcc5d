"""Verdicts on tokens by PyJWT: jwt_pyjwt.py JWKS_URL

A line `@verdict LAST` asks for the next token, until the answer is null.
"""

import json
import sys

import jwt

# The library waits half a minute between fetches otherwise, and a rotated key is asked for sooner.
keys = jwt.PyJWKClient(sys.argv[1], cooldown_duration=0)


def verdict(asked):
    try:
        key = keys.get_signing_key_from_jwt(asked["token"])
        claims = jwt.decode(
            asked["token"], key, algorithms=["ES256", "EdDSA", "RS256"],
            issuer=asked["issuer"], audience=asked["audience"],
        )
        return claims["sub"]
    except jwt.ExpiredSignatureError:
        return "expired"
    except jwt.InvalidSignatureError:
        return "forged"
    except jwt.InvalidAudienceError:
        return "wrong:aud"
    except jwt.InvalidIssuerError:
        return "wrong:iss"
    except jwt.PyJWKClientError:
        return "unknown"


last = "-"
while True:
    print(f"@verdict {last}", flush=True)
    asked = json.loads(sys.stdin.readline())
    if asked is None:
        break
    last = verdict(asked)
