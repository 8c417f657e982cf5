from cupyx.scipy import linalg, special
