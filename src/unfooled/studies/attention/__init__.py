"""Attention: is incomplete attention vulnerable, and does training that holds it resist?"""
