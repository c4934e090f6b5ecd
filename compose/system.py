"""The five services, from whose types topology, permissions and documents derive."""

from fulfillment_svc.service import SERVICE as FULFILLMENT
from inventory_svc.service import SERVICE as INVENTORY
from notification_svc.service import SERVICE as NOTIFICATION
from order_svc.service import SERVICE as ORDER
from payment_svc.service import SERVICE as PAYMENT

SERVICES = (ORDER, INVENTORY, PAYMENT, FULFILLMENT, NOTIFICATION)
