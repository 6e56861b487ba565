"""MNIST features: what do networks inherit from a rebuilt data set?"""
