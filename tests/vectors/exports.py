"""Writes tests/vectors/exports: what the programs export that people move here from, one file each
in the shape that its documentation shows, with the passwords of hashes.json and published.json.
Run by hand after ./generate: python3 exports.py
"""

import csv
import json
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "exports"
VECTORS = [v for name in ("hashes", "published") for v in json.loads((HERE / f"{name}.json").read_text())]
logins = []


def vectors(source, prefix=""):
    found = [v for v in VECTORS if v["source"].startswith(source) and v["stored"].startswith(prefix)]
    assert found, source
    return found


def email(file, n, vector):
    address = f"{file.split('.')[0]}-{n}@example.com"
    logins.append({"file": file, "email": address} | {k: vector[k] for k in ("password", "wrong")})
    return address


def table(file, found, row):
    rows = [row(n, v, email(file, n, v)) for n, v in enumerate(found)]
    with (OUT / file).open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def text(file, value):
    (OUT / file).write_text(value)


# https://docs.djangoproject.com/en/5.2/topics/auth/default/: COPY auth_user TO ... CSV HEADER, and
# `manage.py dumpdata`, which holds other models too.
table("django.csv", vectors("Django")[:6], lambda n, v, email: {
    "id": n + 1, "password": v["stored"], "last_login": "2026-01-02 03:04:05.678+00",
    "is_superuser": "f", "username": f"user{n}", "first_name": "Ann", "last_name": "Example",
    "email": email, "is_staff": "f", "is_active": "t", "date_joined": "2025-01-02 03:04:05+00"})
text("django_dump.json", json.dumps(
    [{"model": "sessions.session", "pk": "x", "fields": {"session_data": "{}"}}] + [
        {"model": "auth.user", "pk": n + 101, "fields": {
            "password": v["stored"], "last_login": None, "is_superuser": False, "username": f"dump{n}",
            "first_name": "", "last_name": "", "email": email("django_dump.json", n, v),
            "is_staff": False, "is_active": True, "date_joined": "2025-01-02T03:04:05.678Z",
            "groups": [], "user_permissions": []}}
        for n, v in enumerate(vectors("Django")[6:])], indent=2) + "\n")

# https://fastapi-users.github.io/fastapi-users/latest/configuration/databases/sqlalchemy/
table("fastapi.csv", vectors("passlib") + vectors("argon2-cffi"), lambda n, v, email: {
    "id": f"11111111-0000-4000-8000-{n:012}", "email": email, "hashed_password": v["stored"],
    "is_active": "true", "is_superuser": "false", "is_verified": "true"})

# The table of an app with Werkzeug's hashes.
table("flask.csv", vectors("Werkzeug") + vectors("hashlib, as Werkzeug"), lambda n, v, email: {
    "id": f"f{n}", "email": email, "password_hash": v["stored"], "name": "Ann"})

# https://github.com/heartcombo/devise: the columns of its migration.
table("rails.csv", vectors("Ruby bcrypt", "$devise$"), lambda n, v, email: {
    "id": f"r{n}", "email": email, "encrypted_password": v["stored"].removeprefix("$devise$"),
    "reset_password_token": "", "remember_created_at": "", "sign_in_count": 3,
    "current_sign_in_at": "2026-01-02 03:04:05.678901", "confirmed_at": "2025-01-03 03:04:05",
    "created_at": "2025-01-02 03:04:05 UTC", "updated_at": "2025-01-04 03:04:05 UTC"})

# https://laravel.com/docs/authentication: the columns of its migration.
table("laravel.csv", vectors("PHP"), lambda n, v, email: {
    "id": f"l{n}", "name": "Ann Example", "email": email, "email_verified_at": "2025-01-03 03:04:05",
    "password": v["stored"], "remember_token": "NULL", "created_at": "2025-01-02 03:04:05",
    "updated_at": "2025-01-04 03:04:05"})

# https://supabase.com/docs/guides/platform/migrating-to-supabase/auth0: the table auth.users.
table("supabase.csv", vectors("pyca/bcrypt")[:4] + vectors("firebase-scrypt")[:1], lambda n, v, email: {
    "instance_id": "00000000-0000-0000-0000-000000000000", "id": f"22222222-0000-4000-8000-{n:012}",
    "aud": "authenticated", "role": "authenticated", "email": email,
    "encrypted_password": v["stored"], "email_confirmed_at": "2025-01-03 03:04:05.678901+00",
    "invited_at": "", "last_sign_in_at": "2026-01-02 03:04:05.678901+00",
    "raw_app_meta_data": json.dumps({"provider": "email", "providers": ["email"], "plan": "pro"}),
    "raw_user_meta_data": json.dumps({"name": "Ann"}), "is_super_admin": "",
    "created_at": "2025-01-02 03:04:05.678901+00", "updated_at": "2025-01-04 03:04:05.678901+00",
    "banned_until": "", "is_sso_user": "f", "deleted_at": "", "is_anonymous": "f"})

# https://auth0.com/docs/troubleshoot/customer-support/manage-subscriptions/export-data
text("auth0.jsonl", "".join(json.dumps({
    "_id": {"$oid": f"60425dc43519d90068f8297{n}"}, "email": email("auth0.jsonl", n, v),
    "email_verified": True, "passwordHash": v["stored"],
    "password_set_date": {"$date": "2025-01-02T03:04:05.678Z"}, "tenant": "example",
    "connection": "Username-Password-Authentication", "_tmp_is_unique": True,
    "user_metadata": {"name": "Ann"}, "app_metadata": {"plan": "pro"},
    "created_at": {"$date": {"$numberLong": "1735787045678"}}}, separators=(",", ":")) + "\n"
    for n, v in enumerate(vectors("pyca/bcrypt")[4:])))

# https://firebase.google.com/docs/cli/auth#file_format; the hashes of the project of the example in
# https://github.com/firebase/scrypt.
found = [v for v in vectors("firebase-scrypt") + vectors("https://github.com/firebase") if ",n=14," in v["stored"]]
users = []
for n, v in enumerate(found):
    _, _, _, salt, output = v["stored"].split("$")
    users.append({
        "localId": f"fb{n}", "email": email("firebase.json", n, v), "emailVerified": True,
        "passwordHash": output.replace("+", "-").replace("/", "_"),
        "salt": salt.replace("+", "-").replace("/", "_"), "displayName": "Ann",
        "lastSignedInAt": "1767323045678", "createdAt": "1735787045678", "disabled": False,
        "customAttributes": "{\"plan\":\"pro\"}", "providerUserInfo": []})
text("firebase.json", json.dumps({"users": users}, indent=2) + "\n")
parameters = dict(p.split("=", 1) for p in found[0]["stored"].split("$")[2].split(","))
text("firebase.params", f"""hash_config {{
  algorithm: SCRYPT,
  base64_signer_key: {parameters["sk"]},
  base64_salt_separator: {parameters["ss"]},
  rounds: {parameters["r"]},
  mem_cost: {parameters["n"]},
}}
""")


# https://www.keycloak.org/server/importExport: a realm with its users.
def credential(stored):
    _, kind, *parts = stored.split("$")
    pad = lambda text: text + "=" * (-len(text) % 4)
    secret = {"value": pad(parts[-1]), "salt": pad(parts[-2]), "additionalParameters": {}}
    if kind.startswith("pbkdf2"):
        cost = dict(p.split("=") for p in parts[0].split(","))
        settings = {"hashIterations": int(cost["i"]), "algorithm": kind, "additionalParameters": {}}
    else:
        cost = dict(p.split("=") for p in parts[1].split(","))
        settings = {"hashIterations": int(cost["t"]), "algorithm": "argon2", "additionalParameters": {
            "hashLength": ["32"], "memory": [cost["m"]], "type": [kind.removeprefix("argon2")],
            "version": ["1.3"], "parallelism": [cost["p"]]}}
    return {"id": "x", "type": "password", "createdDate": 1735787045678,
            "secretData": json.dumps(secret), "credentialData": json.dumps(settings)}


text("keycloak.json", json.dumps({
    "id": "example", "realm": "example", "roles": {"realm": [{"name": "users"}]},
    "users": [{
        "id": f"33333333-0000-4000-8000-{n:012}", "username": f"ann{n}", "firstName": "Ann",
        "lastName": "Example", "email": email("keycloak.json", n, v), "emailVerified": True,
        "createdTimestamp": 1735787045678, "enabled": True, "totp": False,
        "attributes": {"plan": ["pro"]}, "credentials": [credential(v["stored"])],
        "disableableCredentialTypes": [], "requiredActions": [],
        "realmRoles": ["staff", "offline_access"], "notBefore": 0, "groups": []}
        for n, v in enumerate(vectors("hashlib, as Keycloak") + vectors("Keycloak 26"))],
    "scopeMappings": []}, indent=2) + "\n")

# https://learn.microsoft.com/aspnet/core/security/authentication/identity: the table AspNetUsers.
table("aspnet.csv", vectors("https://github.com/dotnet"), lambda n, v, email: {
    "Id": f"44444444-0000-4000-8000-{n:012}", "UserName": email, "NormalizedUserName": email.upper(),
    "Email": email, "NormalizedEmail": email.upper(), "EmailConfirmed": 1,
    "PasswordHash": v["stored"].removeprefix("$aspnet$"), "SecurityStamp": "X", "ConcurrencyStamp": "Y",
    "PhoneNumber": "NULL", "PhoneNumberConfirmed": 0, "TwoFactorEnabled": 0,
    "LockoutEnd": "2025-01-02 03:04:05.0000000 +00:00", "LockoutEnabled": 1, "AccessFailedCount": 0})

text("logins.json", json.dumps(logins, indent=1, ensure_ascii=False) + "\n")
