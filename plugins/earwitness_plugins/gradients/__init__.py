"""Captum's gradient methods, over the feature map or over the samples."""
