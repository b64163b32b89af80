// Create the tables and the users: node seed.js COUNT PASSWORD

import { hashPassword } from "better-auth/crypto";
import { getMigrations } from "better-auth/db/migration";
import { auth, pool } from "./auth.js";

const [count, password] = process.argv.slice(2);
const { runMigrations } = await getMigrations(auth.options);
await runMigrations();
const hash = await hashPassword(password); // once: it is meant to be slow
await pool.query(
  `INSERT INTO "user" (id, name, email, "emailVerified", "createdAt", "updatedAt")
   SELECT 'user' || n, 'User ' || n, 'user' || n || '@example.com', true, now(), now()
   FROM generate_series(0, $1::int - 1) AS n`,
  [count],
);
await pool.query(
  `INSERT INTO account
     (id, "accountId", "providerId", "userId", password, "createdAt", "updatedAt")
   SELECT id, id, 'credential', id, $1, now(), now() FROM "user"`,
  [hash],
);
await pool.end();
