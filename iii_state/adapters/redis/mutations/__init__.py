"""A mutation on its way: which queues want its event, and what is done until it has been applied."""
