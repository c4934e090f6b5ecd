// Publish one order; prints its id once the broker has confirmed it. BROKER_URL says where the broker is.

import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const orderId = randomUUID();
const order = {
  order_id: orderId,
  customer: "cust_ada",
  currency: "EUR",
  payment_token: "tok_ok",
  lines: [{ sku: "apple", quantity: 2, amount_minor: 500 }],
};

const connection = await amqp.connect(process.env.BROKER_URL);
const channel = await connection.createConfirmChannel();
let returned = false;
channel.on("return", () => (returned = true));

channel.publish("facts", "order.created.v2", Buffer.from(JSON.stringify(order)), {
  contentType: "application/json",
  persistent: true,
  mandatory: true,
  messageId: randomUUID(),
  type: "order.created.v2",
  appId: "webshop",
  correlationId: orderId,
});
// Without a confirmation this throws: then publish the same message again.
await channel.waitForConfirms();
await connection.close();

if (returned) throw new Error("no queue is bound to order.created.v2");
console.log(orderId);
