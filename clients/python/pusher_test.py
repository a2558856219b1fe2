"""Pusher's library for Python and pysher, against the real server:  python clients/python/pusher_test.py

Needs a virtual environment with requirements.txt. The server's program is FANFARE_BIN, else what `cargo build` leaves.
"""

import base64
import json
import logging
import sys
import time
import unittest

import nacl.secret
import pusher.errors
from harness import APP, MASTER_KEY, Server, Subscriber, Webhooks, sign

# pysher logs what it does with an error that a test wants to see.
logging.disable(logging.CRITICAL)


class PusherTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        cls.publisher = cls.server.publisher()

    def subscriber(self, **options):
        subscriber = Subscriber(self.server, **options)
        self.addCleanup(subscriber.close)
        return subscriber.connected()

    # What is published and heard

    def test_trigger(self):
        subscriber = self.subscriber()
        channels = {
            "orders": "public",
            "private-orders": "private",
            "cache-orders": "cache",
        }
        for name in channels:
            _, (_, event, data) = subscriber.subscribe(name, "order.paid", "pusher:cache_miss")
            self.assertEqual((event, data), ("pusher_internal:subscription_succeeded", "{}"), name)
            if name.startswith("cache-"):
                self.assertEqual(subscriber.next()[1], "pusher:cache_miss")
        for data, expected in [({"id": 42, "name": "žluť 😀"}, '{"id": 42, "name": "žluť 😀"}'), ("a text", "a text"), ('{"a":1.0}', '{"a":1.0}')]:
            for name in channels:
                self.assertEqual(self.publisher.trigger(name, "order.paid", data), {})
                self.assertEqual(subscriber.next(), (name, "order.paid", expected))
        self.assertEqual(self.publisher.trigger(list(channels), "order.paid", "all"), {})
        self.assertEqual(sorted(subscriber.next()[0] for _ in channels), sorted(channels))

    def test_trigger_on_a_hundred_channels(self):
        self.assertEqual(self.publisher.trigger(["many-%d" % at for at in range(100)], "said", "x"), {})

    def test_trigger_leaves_out_a_socket(self):
        one, two = self.subscriber(), self.subscriber()
        for subscriber in (one, two):
            subscriber.subscribe("others", "said", "end")
        self.publisher.trigger("others", "said", "x", one.socket_id)
        self.publisher.trigger("others", "end", "x")
        self.assertEqual(one.next()[1], "end")
        self.assertEqual([two.next()[1], two.next()[1]], ["said", "end"])

    def test_trigger_batch(self):
        subscriber = self.subscriber()
        subscriber.subscribe("batch", "one", "two")
        batch = [{"channel": "batch", "name": "one", "data": {"a": 1}}, {"channel": "batch", "name": "two", "data": "x"}]
        self.assertEqual(self.publisher.trigger_batch(batch), {})
        self.assertEqual([subscriber.next(), subscriber.next()], [("batch", "one", '{"a": 1}'), ("batch", "two", "x")])

    def test_encrypted_channel(self):
        subscriber = self.subscriber()
        name = "private-encrypted-vault"
        subscriber.subscribe(name, "secret")
        self.publisher.trigger(name, "secret", {"pin": 1234})
        data = json.loads(subscriber.next()[2])
        key = base64.b64decode(self.publisher.authenticate(name, subscriber.socket_id)["shared_secret"])
        self.assertEqual(base64.b64encode(key).decode(), "u0V/HwEMaXw1MXzYL8NtEPFPqyUSB24/LQHzwwpH7AM=")
        opened = nacl.secret.SecretBox(key).decrypt(base64.b64decode(data["ciphertext"]), base64.b64decode(data["nonce"]))
        self.assertEqual(json.loads(opened), {"pin": 1234})
        self.assertEqual(len(base64.b64decode(MASTER_KEY)), 32)

    def test_client_event(self):
        one, two = self.subscriber(), self.subscriber()
        channel, _ = one.subscribe("private-chat", "client-typing", "end")
        two.subscribe("private-chat", "client-typing")
        channel.trigger("client-typing", {"a": 1})
        self.assertEqual(two.next(), ("private-chat", "client-typing", {"a": 1}))
        self.publisher.trigger("private-chat", "end", "x")
        self.assertEqual(one.next(), ("private-chat", "end", "x"))

    def test_presence_by_pysher(self):
        one = self.subscriber(user_data={"user_id": "u-2", "user_info": {"name": "Ann"}})
        _, (_, _, data) = one.subscribe("presence-room", "pusher_internal:member_added")
        self.assertEqual(json.loads(data)["presence"]["hash"], {"u-2": {"name": "Ann"}})
        two = self.subscriber(user_data={"user_id": 17})
        two.subscribe("presence-room")
        self.assertEqual(json.loads(one.next()[2])["user_id"], "17")

    def test_a_signature_that_is_refused(self):
        subscriber = self.subscriber()
        subscriber.pysher.secret = "another"
        _, (_, event, data) = subscriber.subscribe("private-refused")
        self.assertEqual((event, data["type"], data["status"]), ("pusher:subscription_error", "AuthError", 401))
        subscriber.pysher.secret = APP["secret"]
        self.assertEqual(subscriber.subscribe("private-good")[1][1], "pusher_internal:subscription_succeeded")

    def test_an_unknown_key(self):
        subscriber = Subscriber(self.server, key="unknown-key")
        self.addCleanup(subscriber.close)
        self.assertEqual(subscriber.next("pusher:error")[2]["code"], 4001)

    # What is asked

    def test_channels_info(self):
        subscriber = self.subscriber(user_data={"user_id": "u-2"})
        for name in ("asked", "presence-asked-1"):
            subscriber.subscribe(name)
        channels = self.publisher.channels_info()["channels"]
        self.assertEqual((channels["asked"], channels["presence-asked-1"]), ({}, {}))
        expected = {"channels": {"presence-asked-1": {"user_count": 1}}}
        self.assertEqual(self.publisher.channels_info("presence-asked", ["user_count"]), expected)
        self.assertEqual(self.publisher.channels_info("nothing-like-it"), {"channels": {}})

    def test_channel_info(self):
        subscriber = self.subscriber(user_data={"user_id": "u-2"})
        subscriber.subscribe("presence-single")
        expected = {"occupied": True, "user_count": 1, "subscription_count": 1}
        self.assertEqual(self.publisher.channel_info("presence-single", ["user_count", "subscription_count"]), expected)
        self.assertEqual(self.publisher.channel_info("nowhere"), {"occupied": False})
        self.publisher.trigger("cache-single", "said", "kept")
        self.assertEqual(self.publisher.channel_info("cache-single", ["cache"])["cache"]["data"], "kept")

    def test_users_info(self):
        subscriber = self.subscriber(user_data={"user_id": 17})
        subscriber.subscribe("presence-users")
        self.assertEqual(self.publisher.users_info("presence-users"), {"users": [{"id": "17"}]})
        self.assertEqual(self.publisher.users_info("presence-nobody"), {"users": []})

    # Users

    def test_send_to_user_and_the_end_of_her_connections(self):
        subscriber = self.subscriber()
        answer = self.publisher.authenticate_user(subscriber.socket_id, {"id": "u-42"})
        subscriber.pysher.connection.send_event("pusher:signin", answer)
        self.assertEqual(subscriber.next(), (None, "pusher:signin_success", {"user_data": answer["user_data"]}))
        subscriber.subscribe("#server-to-user-u-42", "mail")
        self.assertEqual(self.publisher.send_to_user("u-42", "mail", {"a": 1}), {})
        self.assertEqual(subscriber.next(), ("#server-to-user-u-42", "mail", '{"a": 1}'))
        # This library asks for it on a path of its own.
        self.assertEqual(self.publisher.terminate_user_connections("u-42"), {})
        self.assertEqual(subscriber.next("pusher:error")[2]["code"], 4009)
        subscriber.pysher.connection.join(15)
        self.assertEqual(subscriber.pysher.connection.state, "disconnected")
        self.assertEqual(self.publisher.terminate_user_connections("nobody"), {})

    # Signatures

    def test_authenticate(self):
        answer = self.publisher.authenticate("private-orders.42", "81923.4471")
        self.assertEqual(answer, {"auth": "demo-key-7f3a:dd528e5d9d40821a0c5b5d8a67064faf24a57c02c94fdce8b13e87c457fe193d"})
        answer = self.publisher.authenticate("presence-room", "81923.4471", {"user_id": "u-2"})
        self.assertEqual(answer["auth"], "demo-key-7f3a:" + sign("81923.4471:presence-room:" + answer["channel_data"]))

    # Refusals

    def test_refusals(self):
        event = {"channel": "a", "name": "n", "data": "x"}
        cases = [
            (pusher.errors.PusherBadAuth, ".", lambda: self.server.publisher(secret="another").trigger("a", "n", "x")),
            (pusher.errors.PusherBadAuth, ".", lambda: self.server.publisher(secret="another").channels_info()),
            (pusher.errors.PusherBadStatus, "^404: .", lambda: self.server.publisher(id="9999").trigger("a", "n", "x")),
            (pusher.errors.PusherBadRequest, "Batch too large", lambda: self.publisher.trigger_batch([dict(event) for _ in range(11)])),
            (pusher.errors.PusherBadRequest, ".", lambda: self.publisher.users_info("no-presence")),
            (pusher.errors.PusherBadRequest, ".", lambda: self.publisher.channels_info(attributes=["user_count"])),
            (pusher.errors.PusherBadRequest, ".", lambda: self.publisher.trigger("a", "pusher:ping", "x")),
            (
                pusher.errors.PusherBadStatus,
                "^413: .*content of this event",
                lambda: self.publisher.trigger_batch([{**event, "data": "x" * 102_401}], already_encoded=True),
            ),
        ]
        for error, text, call in cases:
            with self.assertRaisesRegex(error, text):
                call()


class WebhookTest(unittest.TestCase):
    def test_webhook(self):
        webhooks = Webhooks()
        self.addCleanup(webhooks.stop)
        server = Server([(webhooks.url, ["channel_occupied", "channel_vacated"])])
        self.addCleanup(server.stop)
        publisher = server.publisher()
        subscriber = Subscriber(server)
        self.addCleanup(subscriber.close)
        subscriber.connected().subscribe("hooked")
        headers, body = webhooks.next()
        self.assertEqual(headers["Content-Type"], "application/json")
        data = publisher.validate_webhook(headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body)
        self.assertEqual(data["events"], [{"name": "channel_occupied", "channel": "hooked"}], body)
        self.assertLess(abs(data["time_ms"] / 1000 - time.time()), 300)
        self.assertIsNone(publisher.validate_webhook(APP["key"], sign("else"), body))


if __name__ == "__main__":
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    # What fails before the first test is an error too, and no test that ran.
    print(f"python: {max(result.testsRun - failed, 0)} passed, {failed} failed")
    sys.exit(0 if failed == 0 and result.testsRun > 0 else 1)
