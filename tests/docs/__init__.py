"""Tests of the README, of the pages and of `iii-state docs`."""
