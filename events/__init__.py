"""What the services share: the facts they tell each other, and the runtime that speaks them."""
