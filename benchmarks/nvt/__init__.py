"""Long dynamics at constant volume and temperature: does a model stay within physics?"""
