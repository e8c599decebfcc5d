// The life of an account by @supabase/auth-js: supabase_life.mjs URL PART PASSWORD
//
// What only the test can do is asked for by a line `@...` and answered by a line of JSON.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import readline from "node:readline";

const { GoTrueAdminApi, GoTrueClient, isAuthRetryableFetchError, isAuthWeakPasswordError } =
  createRequire(`${process.env.NODE_PATH}/`)("@supabase/auth-js");

const [url, part, password] = process.argv.slice(2);
const newPassword = "Other-Plover-9-Ladder";
const site = "https://app.example.com/";

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(line) {
  console.log(`@${line}`);
  return JSON.parse((await answers.next()).value);
}

// The library's own time, to see its tokens grow old without waiting.
const systemTime = Date.now;
let ahead = 0;
Date.now = () => systemTime() + ahead * 1000;

// Lets the time pass here and at the gateway.
async function passTime(seconds) {
  ahead += seconds;
  await ask(`advance ${seconds}`);
}

function memory(content = new Map()) {
  return {
    content,
    getItem: (key) => content.get(key) ?? null,
    setItem: (key, value) => { content.set(key, value); },
    removeItem: (key) => { content.delete(key); },
  };
}

// A tab of a browser; tabs with one storage are tabs of one browser.
async function tab(storage = memory(), options = {}) {
  const client = new GoTrueClient({
    url, storage, autoRefreshToken: false, detectSessionInUrl: false, ...options,
  });
  const events = [];
  client.onAuthStateChange((event) => { events.push(event); });
  await client.initialize();
  return Object.assign(client, { events, held: storage });
}

// The data of an answer that has to be a good one.
function good({ data, error }) {
  assert.ifError(error);
  return data;
}

// An answer that has to be an error of this status and code.
function refused({ error }, status, code) {
  assert.ok(error, `no error where ${code} was due`);
  assert.deepEqual([error.status, error.code], [status, code], error.message);
  return error;
}

async function signedUp(name) {
  const client = await tab();
  const email = `${name}@example.com`;
  const { session, user } = good(await client.signUp({ email, password, options: { data: { name } } }));
  assert.ok(session.access_token && session.refresh_token, "a session at once");
  assert.deepEqual([user.email, user.user_metadata.name], [email, name]);
  return { client, email };
}

async function signedIn(email, secret = password, storage) {
  const client = await tab(storage);
  good(await client.signInWithPassword({ email, password: secret }));
  return client;
}

const session = async (client) => good(await client.getSession()).session;

// --- accounts: sign up, in, out, refresh, change -----------------------------------------------

async function signingUpAndIn() {
  const { client, email } = await signedUp("ann");
  assert.ok(client.events.includes("SIGNED_IN"), `${client.events}`);
  assert.equal(good(await client.getUser()).user.identities.length, 1);

  const other = await tab();
  const weak = refused(await other.signUp({ email: "weak@example.com", password: "short" }), 422, "weak_password");
  assert.ok(isAuthWeakPasswordError(weak) && weak.reasons.includes("length"), `${weak.reasons}`);
  refused(await other.signUp({ email: "ANN@example.com", password }), 409, "user_already_exists");
  refused(await other.signUp({ email: "no address", password }), 422, "validation_failed");
  refused(await other.signInWithPassword({ email, password: "Wrong-Horse-7" }), 401, "invalid_credentials");
  refused(await other.signInWithPassword({ email: "nobody@example.com", password }), 401, "invalid_credentials");
  refused(await other.signInAnonymously(), 422, "anonymous_provider_disabled");
  assert.equal(await session(other), null);

  const { user } = good(await other.signInWithPassword({ email, password }));
  assert.equal(user.id, good(await client.getUser()).user.id);
  const { claims, header } = good(await other.getClaims());
  assert.deepEqual([claims.sub, claims.email, claims.aal, claims.amr[0].method], [user.id, email, "aal1", "password"]);
  assert.notEqual(header.alg, "HS256", "verified by the library itself, with the published key");

  // A client that starts later finds the session where the first one has put it.
  const later = await tab(other.held);
  assert.equal((await session(later)).access_token, (await session(other)).access_token);
}

async function changing() {
  const { client, email } = await signedUp("ben");
  const { user } = good(await client.updateUser({ data: { colour: "blue", name: null } }));
  assert.deepEqual(user.user_metadata, { colour: "blue" });
  assert.deepEqual(good(await client.getUser()).user.user_metadata, { colour: "blue" });
  assert.ok(client.events.includes("USER_UPDATED"), `${client.events}`);

  const elsewhere = await signedIn(email);
  refused(await client.updateUser({ password }), 422, "same_password");
  refused(await client.updateUser({ password: "short" }), 422, "weak_password");
  good(await client.updateUser({ password: newPassword }));
  refused(await (await tab()).signInWithPassword({ email, password }), 401, "invalid_credentials");
  await signedIn(email, newPassword);
  good(await client.getUser());
  assert.equal((await elsewhere.getUser()).error.name, "AuthSessionMissingError", "ended by the new password");
  assert.equal(await session(elsewhere), null);
}

async function refreshing() {
  const { client, email } = await signedUp("cid");
  const first = await session(client);
  assert.equal((await session(client)).access_token, first.access_token, "not before it is due");
  await passTime(first.expires_in - 60);
  const second = await session(client);
  assert.notEqual(second.access_token, first.access_token);
  assert.notEqual(second.refresh_token, first.refresh_token);
  assert.deepEqual(client.events.filter((event) => event === "TOKEN_REFRESHED").length, 1);

  // By its own timer.
  const ticking = await signedIn(email);
  const before = await session(ticking);
  await passTime(before.expires_in - 60);
  await ticking.startAutoRefresh();
  while (!ticking.events.includes("TOKEN_REFRESHED")) await new Promise((done) => setTimeout(done, 20));
  await ticking.stopAutoRefresh();
  assert.notEqual((await session(ticking)).access_token, before.access_token);
}

// Nothing but the answers of the gateway keeps two tabs apart.
async function twoTabs() {
  const { client, email } = await signedUp("dan");
  for (let round = 0; round < 10; round += 1) {
    const [a, b] = [await tab(client.held), await tab(client.held)];
    await Promise.all([a.refreshSession(), b.refreshSession()]);
    const [of_a, of_b] = [await session(a), await session(b)];
    assert.equal(of_a.access_token, of_b.access_token);
    good(await a.getUser());
    for (const one of [a, b]) assert.ok(!one.events.includes("SIGNED_OUT"), `${one.events}`);
  }
  // Each with a copy of its own: nobody sees what the other one has stored.
  const copies = await Promise.all([1, 2, 3].map(() => tab(memory(new Map(client.held.content)))));
  const sessions = (await Promise.all(copies.map((copy) => copy.refreshSession()))).map((answer) => good(answer).session);
  assert.equal(new Set(sessions.map((one) => one.refresh_token)).size, 1, "the same successor for all");
  for (const copy of copies) {
    good(await copy.getUser());
    assert.ok(!copy.events.includes("SIGNED_OUT"), `${copy.events}`);
  }
  await signedIn(email);
}

async function signingOut() {
  const { client, email } = await signedUp("eva");
  const [local, others, all] = [await signedIn(email), await signedIn(email), await signedIn(email)];
  assert.equal((await local.signOut({ scope: "local" })).error, null);
  assert.ok(local.events.includes("SIGNED_OUT") && (await session(local)) === null);
  for (const one of [client, others, all]) good(await one.getUser());

  assert.equal((await others.signOut({ scope: "others" })).error, null);
  good(await others.getUser());
  assert.equal((await client.getUser()).error.name, "AuthSessionMissingError");

  const last = await signedIn(email);
  assert.equal((await last.signOut()).error, null, "everywhere, the library's default");
  assert.equal((await others.getUser()).error.name, "AuthSessionMissingError");
  assert.equal((await others.signOut()).error, null, "signing out of an ended session is no error");
  assert.equal(await session(others), null);
}

async function lostSessions() {
  const { client, email } = await signedUp("fay");
  // A reused token ends its session, in the hands of a thief and of the owner.
  const stolen = (await session(client)).refresh_token;
  good(await client.refreshSession());
  good(await client.refreshSession());
  await passTime(60);
  const thief = await tab();
  refused(await thief.refreshSession({ refresh_token: stolen }), 400, "refresh_token_already_used");
  assert.equal((await client.getUser()).error.name, "AuthSessionMissingError");
  refused(await thief.refreshSession({ refresh_token: "nonsense" }), 400, "refresh_token_not_found");

  const idle = await signedIn(email);
  await passTime(8 * 86400);
  const { data, error } = await idle.getSession();
  assert.deepEqual([data.session, error.status, error.code], [null, 400, "session_expired"]);
  assert.ok(idle.events.includes("SIGNED_OUT"));
  await signedIn(email);
}

// --- outage: nobody is signed out because the database is away ---------------------------------

async function outage() {
  const { client, email } = await signedUp("gus");
  const before = await session(client);
  await ask("database hang");
  const { error } = await client.getUser();
  assert.ok(isAuthRetryableFetchError(error) && error.status === 503, `${error}`);
  refused(await (await tab()).signInWithPassword({ email, password }), 503, undefined);

  // The access token has expired: the refresh token is all that is left.
  ahead += before.expires_in + 60;
  const refreshing = client.getSession();
  refused(await (await tab()).signInWithPassword({ email, password }), 503, undefined);
  await ask("database resume");
  const after = good(await refreshing).session;
  assert.notEqual(after.access_token, before.access_token);
  good(await client.getUser());
  assert.ok(!client.events.includes("SIGNED_OUT"), `${client.events}`);
}

// --- letters: with confirmation of addresses ---------------------------------------------------

const letter = async (to, kind) => {
  const { letter, data } = await ask(`letter ${to}`);
  assert.equal(letter, kind);
  return data;
};

// Clicks the button of the page that a letter leads to; gives where it leads.
async function click(token, type, redirect) {
  const query = new URLSearchParams({ token, type, redirect_to: redirect });
  const page = await fetch(`${url}/verify?${query}`);
  assert.deepEqual([page.status, page.headers.get("content-type").split(";")[0]], [200, "text/html"]);
  const answer = await fetch(`${url}/verify`, {
    method: "POST", body: query, redirect: "manual", headers: { "Sec-Fetch-Site": "same-origin" },
  });
  assert.equal(answer.status, 303, await answer.text());
  return new URL(answer.headers.get("location"));
}

async function confirming() {
  const [client, email] = [await tab(), "ann@example.com"];
  const made = good(await client.signUp({ email, password, options: { data: { name: "Ann" } } }));
  assert.equal(made.session, null);
  assert.deepEqual([made.user.email, made.user.identities.length], [email, 1]);
  await letter(email, "confirmation");
  refused(await client.signInWithPassword({ email, password }), 400, "email_not_confirmed");
  await passTime(120);
  good(await client.resend({ type: "signup", email }));
  const { token_hash } = await letter(email, "confirmation");
  refused(await client.verifyOtp({ type: "signup", token_hash: "0".repeat(43) }), 403, "otp_expired");
  const { session, user } = good(await client.verifyOtp({ type: "signup", token_hash }));
  assert.ok(session.access_token && user.email_confirmed_at);
  refused(await client.verifyOtp({ type: "signup", token_hash }), 403, "otp_expired");
  await signedIn(email);

  // The same answer for an address that is taken.
  const again = good(await (await tab()).signUp({ email, password: newPassword }));
  assert.equal(again.session, null);
  assert.deepEqual(Object.keys(again.user).sort(), Object.keys(made.user).sort());
  assert.equal(again.user.identities.length, 1);
  await letter(email, "already_registered");
  await signedIn(email);
}

async function byCode() {
  const [client, email] = [await tab(), "ben@example.com"];
  good(await client.signUp({ email, password }));
  const { token } = await letter(email, "confirmation");
  assert.match(token, /^[0-9]{6}$/);
  const wrong = token === "000000" ? "000001" : "000000";
  refused(await client.verifyOtp({ email, token: wrong, type: "email" }), 403, "otp_expired");
  good(await client.verifyOtp({ email, token, type: "email" }));
  assert.equal((await session(client)).user.email, email);

  const magic = await tab();
  good(await magic.signInWithOtp({ email }));
  const sent = await letter(email, "magic_link");
  good(await magic.verifyOtp({ email, token: sent.token, type: "email" }));
  assert.equal(good(await magic.getClaims()).claims.amr[0].method, "otp");

  // An address nobody knows yet gets an account by its letter; or not.
  const fresh = await tab();
  good(await fresh.signInWithOtp({ email: "new@example.com", options: { data: { plan: "free" } } }));
  const { token_hash } = await letter("new@example.com", "magic_link");
  const { user } = good(await fresh.verifyOtp({ type: "magiclink", token_hash }));
  assert.ok(user.email_confirmed_at);
  good(await fresh.signInWithOtp({ email: "never@example.com", options: { shouldCreateUser: false } }));
  refused(await fresh.signInWithOtp({ phone: "+491234567" }), 400, "phone_provider_disabled");
}

async function recovering() {
  const [client, email] = [await tab(), "ben@example.com"];
  good(await client.resetPasswordForEmail(email, { redirectTo: `${site}reset` }));
  good(await client.resetPasswordForEmail("nobody@example.com"));
  const { token_hash, redirect_to } = await letter(email, "recovery");
  assert.equal(redirect_to, `${site}reset`);
  const there = await click(token_hash, "recovery", redirect_to);
  assert.equal(there.origin + there.pathname, `${site}reset`);
  const told = new URLSearchParams(there.hash.slice(1));
  assert.equal(told.get("type"), "recovery");
  good(await client.setSession({ access_token: told.get("access_token"), refresh_token: told.get("refresh_token") }));
  good(await client.updateUser({ password: newPassword }));
  await letter(email, "password_changed");
  refused(await (await tab()).signInWithPassword({ email, password }), 401, "invalid_credentials");
  await signedIn(email, newPassword);

  // With a proof that only the browser has which asked (RFC 7636).
  const careful = await tab(memory(), { flowType: "pkce" });
  await passTime(120);
  good(await careful.resetPasswordForEmail(email, { redirectTo: `${site}reset` }));
  const second = await letter(email, "recovery");
  const back = await click(second.token_hash, "recovery", second.redirect_to);
  assert.equal(back.hash, "");
  const code = back.searchParams.get("code");
  const thief = await tab(memory(), { flowType: "pkce" });
  assert.ok((await thief.exchangeCodeForSession(code)).error, "without the verifier");
  good(await careful.exchangeCodeForSession(code));
  assert.ok(careful.events.includes("PASSWORD_RECOVERY"), `${careful.events}`);
  refused(await careful.exchangeCodeForSession(code), 400, "pkce_code_verifier_not_found");
}

async function moving() {
  const client = await signedIn("ann@example.com");
  const { user } = good(await client.updateUser({ email: "anna@example.com" }));
  assert.deepEqual([user.email, user.new_email], ["ann@example.com", "anna@example.com"]);
  const [present, next] = [await letter("ann@example.com", "email_change_current"), await letter("anna@example.com", "email_change_new")];
  const token_of = (data) => data.token_hash || data.token_hash_new;
  const half = good(await client.verifyOtp({ type: "email_change", token_hash: token_of(next) }));
  assert.equal(half.session, null);
  good(await client.verifyOtp({ type: "email_change", token_hash: token_of(present) }));
  assert.equal(good(await client.getUser()).user.email, "anna@example.com");
  await letter("ann@example.com", "email_changed");
  await signedIn("anna@example.com");

  good(await client.reauthenticate());
  const { token } = await letter("anna@example.com", "reauthentication");
  refused(await client.updateUser({ password: newPassword, nonce: token === "000000" ? "000001" : "000000" }), 422, "reauthentication_not_valid");
  good(await client.updateUser({ password: newPassword, nonce: token }));
  await signedIn("anna@example.com", newPassword);
}

// --- factors: a second factor, from its enrolment to its removal -------------------------------

// What an authenticator app shows (RFC 6238), by the gateway's clock.
function shownAt(secret, seconds) {
  const bits = [...secret].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(seconds / 30)));
  const mac = createHmac("sha1", key).update(step).digest();
  const word = mac.readUInt32BE(mac.at(-1) & 15) & 0x7fffffff;
  return String(word % 1000000).padStart(6, "0");
}

// The next code of the app: each is good once.
async function nextCode(secret) {
  ahead += 30;
  await ask("advance 30");
  return shownAt(secret, await ask("now"));
}

const levels = async (client) => {
  const { currentLevel, nextLevel } = good(await client.mfa.getAuthenticatorAssuranceLevel());
  return [currentLevel, nextLevel];
};

async function factors() {
  const { client, email } = await signedUp("hal");
  const elsewhere = await signedIn(email);
  assert.deepEqual(await levels(client), ["aal1", "aal1"]);
  const { id: factorId, type, friendly_name, totp } =
    good(await client.mfa.enroll({ factorType: "totp", friendlyName: "phone" }));
  assert.deepEqual([type, friendly_name], ["totp", "phone"]);
  assert.match(totp.qr_code, /^data:image\/svg\+xml;utf-8,<svg [^#%]*<\/svg>$/);
  refused(await client.mfa.enroll({ factorType: "totp", friendlyName: "phone" }), 422, "mfa_factor_name_conflict");
  refused(await client.mfa.enroll({ factorType: "phone", phone: "+491234567" }), 422, "mfa_phone_enroll_not_enabled");
  assert.deepEqual(await levels(client), ["aal1", "aal1"], "it counts when it was shown");

  const { id: challengeId } = good(await client.mfa.challenge({ factorId }));
  refused(await client.mfa.verify({ factorId, challengeId, code: "x" }), 422, "mfa_verification_failed");
  const before = await session(client);
  const verified = good(await client.mfa.verify({ factorId, challengeId, code: await nextCode(totp.secret) }));
  assert.equal(verified.user.factors[0].status, "verified");
  assert.ok(client.events.includes("MFA_CHALLENGE_VERIFIED"), `${client.events}`);
  assert.notEqual((await session(client)).refresh_token, before.refresh_token);
  assert.deepEqual(await levels(client), ["aal2", "aal2"]);
  const listed = good(await client.mfa.listFactors());
  assert.deepEqual([listed.all.length, listed.totp.map((factor) => factor.id)], [1, [factorId]]);
  good(await client.refreshSession());
  assert.deepEqual(await levels(client), ["aal2", "aal2"], "a refresh takes nothing away");
  assert.equal((await elsewhere.getUser()).error.name, "AuthSessionMissingError", "ended by the first factor");

  // The next login is half of one.
  const half = await signedIn(email);
  assert.deepEqual(await levels(half), ["aal1", "aal2"]);
  refused(await half.updateUser({ password: newPassword }), 401, "insufficient_aal");
  refused(await half.mfa.enroll({ factorType: "totp" }), 401, "insufficient_aal");
  refused(await half.mfa.unenroll({ factorId }), 401, "insufficient_aal");
  good(await half.mfa.challengeAndVerify({ factorId, code: await nextCode(totp.secret) }));
  const { currentAuthenticationMethods: methods } = good(await half.mfa.getAuthenticatorAssuranceLevel());
  assert.deepEqual(methods.map(({ method }) => method), ["totp", "password"]);

  assert.equal(good(await half.mfa.unenroll({ factorId })).id, factorId);
  good(await half.refreshSession());
  assert.deepEqual(await levels(half), ["aal1", "aal1"]);
  assert.equal((await client.getUser()).error.name, "AuthSessionMissingError", "it had shown what is gone");
  assert.deepEqual(good(await half.mfa.listFactors()).all, []);
}

// --- admin: what a back end does with its service key ------------------------------------------

async function administering() {
  const headers = { Authorization: `Bearer ${await ask("admin_key")}` };
  const admin = new GoTrueAdminApi({ url, headers });
  const { user: ann } = good(await admin.createUser({
    email: "ann@example.com", password, email_confirm: true,
    user_metadata: { name: "Ann" }, app_metadata: { roles: ["staff"] },
  }));
  assert.deepEqual([ann.user_metadata.name, ann.app_metadata.roles], ["Ann", ["staff"]]);
  assert.ok(ann.email_confirmed_at);
  refused(await admin.createUser({ email: "ann@example.com", password }), 422, "email_exists");
  refused(await admin.createUser({ email: "weak@example.com", password: "x" }), 422, "weak_password");
  for (const name of ["bob", "cid", "dan"]) good(await admin.createUser({ email: `${name}@example.com`, password }));
  const page = good(await admin.listUsers({ page: 1, perPage: 2 }));
  assert.deepEqual([page.users.length, page.total, page.nextPage, page.lastPage], [2, 5, 2, 3]);
  assert.equal(good(await admin.listUsers()).users.length, 5);
  assert.equal(good(await admin.getUserById(ann.id)).user.email, "ann@example.com");
  refused(await admin.getUserById("00000000-0000-4000-8000-000000000000"), 404, "user_not_found");

  const client = await signedIn("ann@example.com");
  const { user: changed } = good(await admin.updateUserById(ann.id, {
    email: "anna@example.com", email_confirm: true, password: newPassword, user_metadata: { name: "Anna" },
  }));
  assert.deepEqual([changed.email, changed.user_metadata.name], ["anna@example.com", "Anna"]);
  assert.equal((await client.getUser()).error.name, "AuthSessionMissingError", "a new password ends sessions");
  const again = await signedIn("anna@example.com", newPassword);
  good(await admin.signOut((await session(again)).access_token, "global"));
  assert.equal((await again.getUser()).error.name, "AuthSessionMissingError");
  good(await admin.updateUserById(ann.id, { ban_duration: "24h" }));
  refused(await (await tab()).signInWithPassword({ email: "anna@example.com", password: newPassword }), 401, "invalid_credentials");
  good(await admin.updateUserById(ann.id, { ban_duration: "none" }));
  await signedIn("anna@example.com", newPassword);

  const link = good(await admin.generateLink({ type: "magiclink", email: "anna@example.com", options: { redirectTo: `${site}in` } }));
  assert.deepEqual([link.properties.verification_type, link.properties.redirect_to, link.user.id], ["magiclink", `${site}in`, ann.id]);
  const visitor = await tab();
  good(await visitor.verifyOtp({ type: "magiclink", token_hash: link.properties.hashed_token }));
  const { id: factorId, totp } = good(await visitor.mfa.enroll({ factorType: "totp", friendlyName: "phone" }));
  good(await visitor.mfa.challengeAndVerify({ factorId, code: await nextCode(totp.secret) }));
  assert.deepEqual(good(await admin.mfa.listFactors({ userId: ann.id })).factors.map(({ id }) => id), [factorId]);
  // The library wraps this answer twice.
  assert.equal(good(await admin.mfa.deleteFactor({ userId: ann.id, id: factorId })).data.id, factorId);
  assert.deepEqual(good(await admin.mfa.listFactors({ userId: ann.id })).factors, []);

  const { user: invited } = good(await admin.inviteUserByEmail("eve@example.com", { data: { team: 7 }, redirectTo: site }));
  assert.equal(invited.email, "eve@example.com");
  const { token_hash } = await letter("eve@example.com", "invite");
  const eve = await tab();
  assert.equal(good(await eve.verifyOtp({ type: "invite", token_hash })).user.user_metadata.team, 7);

  good(await admin.deleteUser(ann.id));
  refused(await admin.getUserById(ann.id), 404, "user_not_found");
  const { user } = good(await eve.getUser());
  good(await admin.deleteUser(user.id, true));
  assert.ok(good(await admin.getUserById(user.id)).user.deleted_at);

  // Nobody else is an administrator.
  const bob = await signedIn("bob@example.com");
  const { access_token } = await session(bob);
  const wrong = new GoTrueAdminApi({ url, headers: { Authorization: `Bearer ${access_token}` } });
  refused(await wrong.listUsers(), 403, "not_admin");
}

const parts = {
  admin: [administering],
  accounts: [signingUpAndIn, changing, refreshing, twoTabs, signingOut, lostSessions],
  outage: [outage],
  factors: [factors],
  letters: [confirming, byCode, recovering, moving],
};
for (const step of parts[part]) {
  console.log(step.name);
  await step();
}
process.exit(0);
