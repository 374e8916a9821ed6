from django import template

register = template.Library()

SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}
PILLS = {
    "open": ("info", "Open"),
    "paid": ("ok", "Paid"),
    "partially_refunded": ("off", "Partly refunded"),
    "refunded": ("off", "Refunded"),
    "failed": ("bad", "Payment failed"),
    "cancelled": ("off", "Cancelled"),
}


@register.filter
def money(order):
    return f"{SYMBOLS[order.currency]}{order.amount_minor / 100:,.2f}"


@register.inclusion_tag("shop/pill.html")
def pill(status):
    tone, word = PILLS[status]
    return {"tone": tone, "word": word}
