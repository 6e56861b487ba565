"""Attribution robustness: do explanations survive an attack?"""
