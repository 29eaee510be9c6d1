"""Ray around the plain classes: the session, actors, lanes and the prefix pass. The one room, with studies, that imports ray."""
