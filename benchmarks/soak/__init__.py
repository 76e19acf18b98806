"""Long runs: does anything drift, grow, stay behind or break when it is interrupted?"""
