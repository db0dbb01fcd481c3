"""Long runs against a real `pagecheck serve`: what it needs and how quickly it answers over time
(`run`), and when it is full (`load`)."""
