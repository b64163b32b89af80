// better-auth with email and password, as its guides to sessions and to performance advise.

import { betterAuth } from "better-auth";
import { Pool } from "pg";

// As many connections as the load has: pg's own number is 10.
export const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 20 });

// Behind a proxy with TLS; a browser on its pages sends it as the Origin, which is checked.
const site = "https://app.example.com";
// The limiter is on, as it is in production, but lets through what comes from one address.
const unlimited = { window: 10, max: 10_000_000 };

export const auth = betterAuth({
  baseURL: site,
  secret: "guards nothing but the users of a benchmark",
  database: pool,
  emailAndPassword: { enabled: true },
  session: {
    // 0: whenever a session is read it gets its full length again, so each read is a refresh,
    // unless the request says disableRefresh.
    updateAge: 0,
    // For five minutes a signed cookie answers instead of the database, unless the request says
    // disableCookieCache.
    cookieCache: { enabled: true, maxAge: 5 * 60 },
  },
  advanced: { database: { joins: true } }, // a session and its user in one query
  rateLimit: { enabled: true, ...unlimited, customRules: { "/sign-in/*": unlimited } },
  telemetry: { enabled: false },
});
