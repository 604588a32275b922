"""Two models and texts -> how far their answers agree. The models are loaded in processes of their own."""
