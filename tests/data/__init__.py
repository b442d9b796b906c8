"""Tests of opening clean sets and preparing images."""
