"""The helpers of these tests are modules beside them."""
