"""Certification: robust accuracy between what is proven and what withstands attacks, network by network."""

from unfooled.studies.certification.scale import CertificationScale, CertificationTask
from unfooled.studies.certification.study import run_certification

__all__ = ["CertificationScale", "CertificationTask", "run_certification"]
