import errno
import json
import multiprocessing
import pickle

import numpy as np
import pytest
from conftest_data import Plain, pixels  # noqa
