"""What the shop sells, for how much, and how many of each the warehouse holds when a run begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    price_cents: int
    stock: int
    # How often it is bought, relative to the others.
    popularity: int


CATALOGUE = {
    "tea-assam-250g": Item(890, 110, 16),
    "tea-darjeeling-100g": Item(1_290, 70, 10),
    "tea-sencha-100g": Item(1_150, 60, 9),
    "coffee-espresso-1kg": Item(1_990, 110, 14),
    "coffee-filter-500g": Item(1_190, 80, 11),
    "mug-white": Item(740, 50, 8),
    "mug-blue": Item(740, 30, 7),
    "teapot-1l": Item(3_450, 28, 4),
    # Too few of these two for all who want one: the last buyers are disappointed.
    "kettle-steel": Item(5_900, 7, 6),
    "grinder-hand": Item(8_490, 14, 5),
    "scale-kitchen": Item(2_990, 25, 4),
    "filters-100": Item(390, 60, 6),
}


def opening_stock(orders_count: int = 300) -> dict[str, int]:
    """The stock for a run of so many orders: that of the catalogue, once per 300 of them."""
    deliveries = max(1, -(-orders_count // 300))
    return {sku: item.stock * deliveries for sku, item in CATALOGUE.items()}
