"""Reads customers' ids as JSON, gives the keys of a session for each, in the same order."""

import json
import os
import sys
from datetime import timedelta

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

call_command("migrate", "sessions", verbosity=0)
store = SessionStore()
rows = [
    Session(
        session_key=store._get_new_session_key(),
        session_data=store.encode({"customer_id": customer}),
        expire_date=timezone.now() + timedelta(days=1),
    )
    for customer in json.load(sys.stdin)
]
Session.objects.bulk_create(rows, batch_size=500)
json.dump([row.session_key for row in rows], sys.stdout)
