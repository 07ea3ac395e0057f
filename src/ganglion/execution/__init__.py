"""The waist: Task, Gang and Service, the backends that run them and the machine that decides about them."""
