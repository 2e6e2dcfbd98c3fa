"""Plain data about a model: conversion record, preprocessing, provenance and the `rtool.*` keys of its metadata."""
