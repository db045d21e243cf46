"""Model families: how a request becomes token sequences and numbers become scores."""
