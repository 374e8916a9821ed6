from django.urls import path

from shop import views

urlpatterns = [
    path("customers", views.elsewhere, name="sign_in"),
    path("customers/orders", views.orders, name="orders"),
    path("customers/orders/<int:order_id>", views.elsewhere, name="order"),
    path("customers/subscriptions", views.elsewhere, name="subscriptions"),
    path("customers/upcoming", views.elsewhere, name="upcoming"),
    path("customers/payments", views.elsewhere, name="payments"),
    path("customers/sessions", views.elsewhere, name="sessions"),
    path("customers/logout", views.elsewhere, name="sign_out"),
]
