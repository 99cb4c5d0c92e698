"""The values of all scopes: reading and scanning them, their deadlines, what other programs do to them."""
