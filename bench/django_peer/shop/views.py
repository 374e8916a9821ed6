from functools import cache

from django.http import Http404
from django.shortcuts import redirect, render

from shop.models import Customer, Order, Portal

PAGE = 25


def orders(request):
    portal = portal_of(request.get_host().split(".")[0])
    customer = Customer.objects.filter(portal=portal, pk=request.session.get("customer_id")).first()
    if customer is None:
        return redirect("sign_in")
    found = list(Order.objects.filter(portal=portal, customer=customer)[: PAGE + 1])
    return render(
        request,
        "shop/orders.html",
        {
            "portal": portal,
            "customer": customer,
            "orders": found[:PAGE],
            "older": found[PAGE - 1] if len(found) > PAGE else None,
            "tab": "orders",
        },
    )


@cache
def portal_of(slug):
    try:
        return Portal.objects.get(slug=slug)
    except Portal.DoesNotExist:
        raise Http404 from None


def elsewhere(request, **parts):
    """What the page links to; nobody goes there."""
    raise Http404
