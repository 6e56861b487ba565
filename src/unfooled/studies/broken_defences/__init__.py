"""Broken defences: does an audit notice hidden gradients?"""
