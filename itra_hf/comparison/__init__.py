"""Side-by-side runs of trainers on the same data, seeds and order: does alignment help here?"""
