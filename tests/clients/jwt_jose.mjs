// Verdicts on tokens by jose: jwt_jose.mjs JWKS_URL
//
// A line `@verdict LAST` asks for the next token, until the answer is null.

import { createRequire } from "node:module";
import readline from "node:readline";

const { createRemoteJWKSet, jwtVerify } = createRequire(`${process.env.NODE_PATH}/`)("jose");

// The library waits half a minute between fetches otherwise, and a rotated key is asked for sooner.
const keys = createRemoteJWKSet(new URL(process.argv[2]), { cooldownDuration: 0 });
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function verdict({ token, issuer, audience }) {
  try {
    const { payload } = await jwtVerify(token, keys, { issuer, audience, typ: "JWT" });
    return payload.sub;
  } catch (error) {
    return error.code === "ERR_JWT_CLAIM_VALIDATION_FAILED" ? `wrong:${error.claim}` : error.code;
  }
}

const names = {
  ERR_JWT_EXPIRED: "expired",
  ERR_JWS_SIGNATURE_VERIFICATION_FAILED: "forged",
  ERR_JWKS_NO_MATCHING_KEY: "unknown",
};

let last = "-";
for (;;) {
  console.log(`@verdict ${last}`);
  const asked = JSON.parse((await answers.next()).value);
  if (asked === null) break;
  const found = await verdict(asked);
  last = names[found] ?? found;
}
process.exit(0);
