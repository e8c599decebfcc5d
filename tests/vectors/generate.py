"""See ./generate, which runs it. Prints the vectors as JSON."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from importlib.metadata import version

import bcrypt
import django
from argon2 import PasswordHasher, Type
from django.conf import settings
from django.contrib.auth import hashers
from passlib import hash as passlib
from werkzeug.security import generate_password_hash

PASSWORDS = {"ascii": "correct Horse 7", "utf-8": "pässwörd-日本"}
BCRYPT = PASSWORDS | {"72 bytes": "ab3" * 24, "73 bytes": "ab3" * 24 + "x"}
PEPPER = "pepper of the vectors"

settings.configure(
    PASSWORD_HASHERS=[
        "django.contrib.auth.hashers." + name
        for name in (
            "PBKDF2PasswordHasher",
            "PBKDF2SHA1PasswordHasher",
            "Argon2PasswordHasher",
            "BCryptSHA256PasswordHasher",
            "BCryptPasswordHasher",
            "ScryptPasswordHasher",
        )
    ]
)
django.setup()
vectors = []


def add(source, password, stored, **more):
    # Another first character: bcrypt looks at 72 bytes only.
    wrong = "X" + password[1:]
    vectors.append({"source": source, "password": password, "stored": stored, "wrong": wrong} | more)


def run(*command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


source = "Django " + django.__version__
for password in PASSWORDS.values():
    for name in hashers.get_hashers():
        # Cost of the default, but for bcrypt and PBKDF2, whose checks would take seconds here.
        rounds = {"rounds": 5} if "bcrypt" in name.algorithm else {"iterations": 3000}
        if "pbkdf2" in name.algorithm:
            stored = name.encode(password, name.salt(), **rounds)
        elif "bcrypt" in name.algorithm:
            name.rounds = 5
            stored = name.encode(password, name.salt())
        else:
            stored = name.encode(password, name.salt())
        assert hashers.check_password(password, stored)
        add(source, password, stored)

source = "passlib 1.7.4"
for password in PASSWORDS.values():
    for handler in (
        passlib.pbkdf2_sha1.using(rounds=3000),
        passlib.pbkdf2_sha256.using(rounds=3000),
        passlib.pbkdf2_sha512.using(rounds=3000),
        # An empty salt is legal there.
        passlib.pbkdf2_sha256.using(rounds=1000, salt=b""),
        passlib.scrypt.using(rounds=10),
        passlib.bcrypt_sha256.using(rounds=5),
        passlib.bcrypt_sha256.using(rounds=5, version=1),
        passlib.bcrypt.using(rounds=5),
        passlib.bcrypt.using(rounds=5, ident="2a"),
        passlib.argon2.using(rounds=2, memory_cost=256, parallelism=2),
    ):
        add(source, password, handler.hash(password))

source = "argon2-cffi " + version("argon2-cffi")
for password in PASSWORDS.values():
    for kind in (Type.D, Type.I, Type.ID):
        hasher = PasswordHasher(time_cost=2, memory_cost=512, parallelism=2, type=kind)
        add(source, password, hasher.hash(password))

source = "Werkzeug " + version("werkzeug")
for password in PASSWORDS.values():
    for method in (
        "scrypt",
        "scrypt:1024:4:2",
        "pbkdf2:sha1:2000",
        "pbkdf2:sha256:2000",
        "pbkdf2:sha512:2000",
    ):
        add(source, password, generate_password_hash(password, method))

source = "pyca/bcrypt " + bcrypt.__version__
for password in BCRYPT.values():
    for prefix in (b"2a", b"2b"):
        stored = bcrypt.hashpw(password.encode(), bcrypt.gensalt(5, prefix)).decode()
        add(source, password, stored)

php = "echo password_hash($argv[1], PASSWORD_BCRYPT, ['cost' => 5]);"
source = "PHP " + run("php", "-r", "echo PHP_VERSION;")
for password in BCRYPT.values():
    add(source, password, run("php", "-r", php, password))

ruby = "require 'bcrypt'; print BCrypt::Password.create(ARGV[0], cost: 5)"
source = "Ruby bcrypt " + run("ruby", "-e", "require 'bcrypt'; print Gem.loaded_specs['bcrypt'].version")
for password in PASSWORDS.values():
    add(source, password, run("ruby", "-e", ruby, password))
    stored = run("ruby", "-e", ruby, password + PEPPER)
    add(source + ", as Devise with a pepper", password, "$devise$" + stored, pepper=PEPPER)

firebase = """
const { FirebaseScrypt } = require("firebase-scrypt");
const [password, salt, memCost, rounds, saltSeparator, signerKey] = process.argv.slice(1);
const of = { memCost: +memCost, rounds: +rounds, saltSeparator, signerKey };
new FirebaseScrypt(of).hash(password, salt).then((hash) => process.stdout.write(hash));
"""
SIGNER_KEY = (
    "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=="
)
for password in PASSWORDS.values():
    for cost, rounds, separator, salt in (
        ("14", "8", "Bw==", "42xEC+ixf3L2lw=="),
        ("10", "4", "", "c2FsdCBvZiB2ZWN0b3Jz"),
    ):
        output = run("node", "-e", firebase, password, salt, cost, rounds, separator, SIGNER_KEY)
        # The package writes URL-safe Base64 in some versions.
        output = output.replace("-", "+").replace("_", "/")
        stored = f"$fbscrypt$v=1,n={cost},r={rounds},p=1,ss={separator},sk={SIGNER_KEY}${salt}${output}"
        add("firebase-scrypt 2.2.0", password, stored)

# What these two do is plain enough to be done by Python's own library: werkzeug/security.py before
# 2.3, and Keycloak's Pbkdf2PasswordHashProvider, whose output has 64 bytes with every digest.
for password in PASSWORDS.values():
    stored = hmac.new(b"salt4567", password.encode(), "sha256").hexdigest()
    add("hashlib, as Werkzeug before 2.3", password, "sha256$salt4567$" + stored)
    for digest, name in (("sha1", ""), ("sha256", "-sha256"), ("sha512", "-sha512")):
        output = hashlib.pbkdf2_hmac(digest, password.encode(), b"0123456789abcdef", 2750, 64)
        parts = (base64.b64encode(part).decode().rstrip("=") for part in (b"0123456789abcdef", output))
        stored = f"$pbkdf2{name}$i=2750,l=64$" + "$".join(parts)
        add("hashlib, as Keycloak", password, stored)

json.dump(vectors, sys.stdout, indent=1, ensure_ascii=False)
print()
